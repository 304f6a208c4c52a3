"""Project files whose parts are of another kind than their tools take: named, not passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from bringup.facts.project import read_project


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("pyproject.toml", '[project]\nname = "p"\ndependencies = "torch"\n', "[project] dependencies"),
        ("pyproject.toml", "[project]\ndependencies = [1]\n", "[project] dependencies"),
        (
            "pyproject.toml",
            '[project.optional-dependencies]\ntrain = "torch"\n',
            "[project.optional-dependencies] train",
        ),
        ("environment.yml", "# mine\n---\n- pytorch\n- numpy\n", "dependencies:"),
        ("environment.yaml", "\n[pytorch, numpy]\n", "dependencies:"),
    ],
)
def test_the_file_and_its_fault_are_named(file: str, text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    project = read_project(tmp_path)
    ((name, why),) = project.unreadable
    assert name == file and told in why and not project.pins


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\nname: x\ndependencies:\n  - numpy\n", "\n" * 9000])
def test_others_are_not(text: str, tmp_path: Path) -> None:
    (tmp_path / "environment.yml").write_text(text)
    (tmp_path / "pyproject.toml").write_text("[build-system]\nrequires = []\n")
    assert not read_project(tmp_path).unreadable
