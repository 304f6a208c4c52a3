"""conda's environment files: flow style, other names, and packages that are no Python's."""

from __future__ import annotations

from pathlib import Path

import pytest

from bringup.catalog import load
from bringup.facts.conda_names import may_be_a_program, pip_name
from bringup.facts.project import read_project
from bringup.facts.project_requirements import (
    has_conda_form,
    may_be_conda_file,
    pins_of_environment,
    rows_of_environment,
)
from bringup.plan.wanted import Wanted, from_project

FLOW = """\
name: x
channels: [pytorch, conda-forge]
dependencies: [python=3.8, pytorch=1.12.1, "einops", # the model's
  {pip: [timm==0.4.12, 'jax[cuda12]==0.4.35']}]
prefix: /opt/x
"""
BLOCK_WITH_FLOW = "dependencies:\n  - numpy\n  - pip: [timm, kornia>=0.7]\n  - scipy\n"
CONDA = "name: x\nchannels: [pytorch]\ndependencies:\n  - python=3.9\n  - pytorch=1.9\n  - einops\n"


def wanted_of(root: Path, files: dict[str, str]) -> Wanted:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return from_project(read_project(root), load())


def test_a_flow_list_is_read_at_the_line_where_it_begins() -> None:
    pins = [(str(pin.requirement), pin.line, pin.channel) for pin in pins_of_environment(FLOW, "e.yml")]
    assert pins == [
        ("python==3.8.*", 3, "conda"),
        ("torch==1.12.1", 3, "conda"),
        ("einops", 3, "conda"),
        ("timm==0.4.12", 3, ""),
        ("jax[cuda12]==0.4.35", 3, ""),
    ]


def test_a_flow_list_below_pip_leaves_what_follows_to_conda() -> None:
    pins = [(str(pin.requirement), pin.line) for pin in pins_of_environment(BLOCK_WITH_FLOW, "e.yml")]
    assert pins == [("numpy", 2), ("timm", 3), ("kornia>=0.7", 3), ("scipy", 4)]


@pytest.mark.parametrize("text", ["dependencies: [a, b\nname: x", "dependencies: ]", "dependencies: ['a]\n"])
def test_a_flow_list_without_an_end_stays_as_it_is(text: str) -> None:
    assert list(rows_of_environment(text)) == list(enumerate(text.splitlines(), 1))


@pytest.mark.parametrize("name", ["env.yml", "env/SE3nv.yml", "neuralangelo.yaml", "docker/conda_gpu.yaml"])
def test_conda_files_of_other_names_are_read(name: str, tmp_path: Path) -> None:
    wanted = wanted_of(tmp_path, {name: CONDA})
    assert str(wanted.torch["torch"][0]) == "torch==1.9.*"
    assert set(wanted.pins) == {"einops"}


@pytest.mark.parametrize(
    "name",
    [
        ".github/workflows/env.yml",
        "docs/env.yml",
        "env-dev.yml",
        "conda-extras.yaml",
        "configs/model.yaml",
        "env.json",
    ],
)
def test_files_elsewhere_and_for_some_are_not_read(name: str) -> None:
    assert not may_be_conda_file(name)


@pytest.mark.parametrize(
    "text",
    [
        "name: tests\non: push\njobs:\n  x:\n    dependencies:\n      - a\n",
        "services:\n  web:\n    image: x\n",
        "site_name: x\n",
    ],
)
def test_files_of_other_tools_have_not_its_form(text: str) -> None:
    assert not has_conda_form(text)


def test_beside_an_environment_yml_other_files_are_for_something_else(tmp_path: Path) -> None:
    files = {"environment.yml": CONDA, "colab.yml": "name: y\ndependencies:\n  - kornia\n"}
    assert set(wanted_of(tmp_path, files).pins) == {"einops"}


def test_what_only_the_documentation_needs_is_not_taken(tmp_path: Path) -> None:
    files = {"env.yml": CONDA, "docs/environment.yml": "name: d\ndependencies:\n  - sphinx\n"}
    assert set(wanted_of(tmp_path, files).pins) == {"einops"}


def test_a_folder_env_is_read_unless_it_is_an_environment(tmp_path: Path) -> None:
    files = {"env/a.py": "import kornia", "venv39/pyvenv.cfg": "", "venv39/b.py": "import other"}
    wanted = wanted_of(tmp_path, files)
    assert set(wanted.unplaced) == {"kornia"}


def test_programs_are_named_and_never_looked_up(tmp_path: Path) -> None:
    listed = "".join(
        f"  - {name}\n"
        for name in ("aria2", "bioconda::hmmer=3.3", "bioconda::pysam", "bioconda::anarci", "numpy", "einops")
    )
    files = {"environment.yml": f"dependencies:\n{listed}", "main.py": "import pysam, torch\n"}
    wanted = wanted_of(tmp_path, files)
    assert set(wanted.pins) == {"pysam", "numpy", "einops"}
    left = {choice.subject: choice.why.id for choice in wanted.choices}
    assert left == dict.fromkeys(("aria2", "hmmer", "anarci"), "conda-program")


@pytest.mark.parametrize(
    "name", ["numpy", "pandas", "scikit-image", "einops", "timm", "awscli", "biopython", "rdkit", "pdbfixer"]
)
def test_packages_of_pythons_stay(name: str) -> None:
    assert pip_name(name) == name
    assert not may_be_a_program(name, "conda")


@pytest.mark.parametrize(
    ("conda", "index"), [("python-devtools", "devtools"), ("dgl-cuda11.1", "dgl"), ("r-base", None)]
)
def test_names_that_differ(conda: str, index: str | None) -> None:
    assert pip_name(conda) == index
