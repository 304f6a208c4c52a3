"""Exit codes, languages and the one clean paragraph, through the real program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def bringup(*arguments: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"BRINGUP_HOME": str(home), "LC_ALL": "C.UTF-8", "COLUMNS": "200"} | variables
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["up", "prostate-sll", "--demo"], 2, "prostate-ssl"),
        (["up", "prostate-ssl"], 2, "--demo"),
        (["up", "prostate-ssl", "--data", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["apply", "/nowhere/plan.toml"], 2, "/nowhere/plan.toml"),
        (["env", "path", "nothing"], 2, "nothing"),
        (["verify"], 2, "--env"),
        (["verify", "--env", "/nowhere"], 2, "/nowhere"),
        (["plan", "prostate-ssl", "--gpu", "RTX 9999"], 2, "RTX 9999"),
        (["nonsense"], 2, "nonsense"),
        (["--lang", "xx", "env", "list"], 2, "xx"),
    ],
)
def test_refusals(arguments: list[str], code: int, words: str, tmp_path: Path) -> None:
    ran = bringup(*arguments, home=tmp_path)
    assert ran.returncode == code
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


def test_chinese_is_chosen_anywhere_in_the_line(tmp_path: Path) -> None:
    for arguments in (["--lang", "zh", "env", "path", "x"], ["env", "path", "x", "--lang=zh"]):
        assert "没有环境" in bringup(*arguments, home=tmp_path).stderr


def test_errors_are_json_where_json_is_asked_for(tmp_path: Path) -> None:
    ran = bringup("apply", "/nowhere.toml", "--json", home=tmp_path)
    assert json.loads(ran.stdout)["id"] == "plan-unreadable"


def test_recipes_are_listed_and_checked(tmp_path: Path) -> None:
    listed = json.loads(bringup("recipes", "list", "--json", home=tmp_path).stdout)["recipes"]
    for row in listed:
        shown = bringup("recipes", "show", row["name"], home=tmp_path)
        (tmp_path / "copy.toml").write_text(shown.stdout, encoding="utf-8")
        assert bringup("recipes", "check", str(tmp_path / "copy.toml"), home=tmp_path).returncode == 0


def test_a_broken_recipe_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('schema = "bringup/recipe/1"\nname = "Mine"\n')
    ran = bringup("recipes", "check", str(tmp_path / "mine.toml"), home=tmp_path)
    assert ran.returncode == 2
    assert "name" in ran.stderr


def test_nothing_of_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from bringup.cli.main import run; run(['recipes', 'list']);"
        "import bringup.steps.apply, bringup.plan.planner;"
        "sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["recipes", "list"], ["--help"], ["recipes", "show", "deepprep"]])
def test_output_that_finds_the_disk_full(arguments: list[str], tmp_path: Path) -> None:
    """With the buffer that a user's output has: what does not fit may show only at the end."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "--lang", "en", *arguments]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | {"BRINGUP_HOME": str(tmp_path)},
        )
    assert ran.returncode == 1
    assert ran.stderr.startswith("The disk is full.")
    assert "Exception ignored" not in ran.stderr
