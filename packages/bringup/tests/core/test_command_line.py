"""Exit codes, languages and the one clean paragraph, through the real program."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bringup.cli.main import run


def bringup(
    *arguments: str, home: Path, encoding: str = "utf-8", **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"BRINGUP_HOME": str(home), "LC_ALL": "C.UTF-8", "COLUMNS": "200"} | variables
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, encoding=encoding, env=environment, timeout=120)


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


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "cp936"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
    ],
)
def test_every_encoding_of_a_terminal_is_written(
    variables: dict[str, str], language: str, tmp_path: Path
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "train.py").write_text("import torch\nprint 1\n")
    asked = ["doctor", "--project", str(tmp_path / "project"), "--gpu", "GB10", "--lang", language]
    ran = bringup(*asked, home=tmp_path, encoding=variables.get("PYTHONIOENCODING", "ascii"), **variables)
    assert ran.returncode == 3, ran.stderr
    assert "train.py" in ran.stdout
    as_json = bringup(*asked, "--json", home=tmp_path, encoding="ascii", **variables)
    assert json.loads(as_json.stdout)["schema"] == "bringup/doctor/1"


def test_marks_have_a_plain_form(tmp_path: Path) -> None:
    ran = bringup("doctor", "--gpu", "GB10", home=tmp_path, PYTHONIOENCODING="ascii")
    assert "\nv " in ran.stdout  # ✓


@pytest.mark.skipif(os.name == "nt", reason="names of files as bytes")
def test_names_that_are_no_utf8_are_shown_and_written_as_json(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    Path(os.fsdecode(os.fsencode(project) + b"/caf\xe9-\xc2\x9b31m.py")).write_text("print 1")
    for variables in ({}, {"PYTHONIOENCODING": "cp1252"}):
        asked = ["doctor", "--project", str(project), "--gpu", "GB10"]
        assert "caf" in bringup(*asked, home=tmp_path, encoding="latin-1", **variables).stdout
        shown = bringup(*asked, "--json", home=tmp_path, **variables).stdout
        assert "\x9b" not in shown
        assert "caf\udce9-\x9b31m.py" in json.dumps(json.loads(shown), ensure_ascii=False)


@pytest.mark.parametrize("output", ["there", "file/plan.toml", "/proc/nothing/plan.toml", os.devnull])
def test_a_plan_that_could_not_be_written_is_refused_before_planning(output: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("import torch")
    at = ["--output", str(tmp_path / output)]
    ran = bringup("plan", "--project", str(tmp_path), "--gpu", "sm_90", *at, home=tmp_path / "home")
    assert ran.returncode == 2
    assert "--output" in ran.stderr and "cannot be written" in ran.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("option", ["--html", "--share"])
def test_a_page_that_could_not_be_written_is_refused_before_looking(option: str, tmp_path: Path) -> None:
    ran = bringup("doctor", option, str(tmp_path), home=tmp_path / "home")
    assert ran.returncode == 2
    assert option in ran.stderr


@pytest.mark.parametrize("python", ["2.7", "99999", "/bin/ls"])
def test_a_python_that_is_not_there_is_named(python: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import torch")
    where = ["--project", str(tmp_path), "-o", str(tmp_path / "plan.toml")]
    ran = bringup("plan", *where, "--python", python, "--gpu", "sm_90", home=tmp_path / "home")
    assert ran.returncode == 2
    assert f"'{python}' is neither" in ran.stderr
    assert ">=3.10" not in ran.stderr


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM")
def test_a_command_in_an_environment_may_heed_a_request_to_end() -> None:
    inner = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved') or 7))\n"
        "print('begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    code = "import os, sys; from bringup.cli.env import _call; sys.exit(_call(sys.argv[1:], os.environ))"
    command = [sys.executable, "-c", code, sys.executable, "-c", inner]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        running.terminate()
        assert running.communicate(timeout=30)[0] == "saved\n"
    assert running.returncode == 7


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


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NFS without its lock daemon."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(descriptor: int, operation: int) -> None:
        if not operation & fcntl.LOCK_UN:
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / "requirements.txt").write_text("torch\n")
    assert run(["plan", "--project", str(tmp_path), "--gpu", "sm_90", "-o", str(tmp_path / "plan.toml")]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "has no locks" in told and "BRINGUP_HOME=" in told
