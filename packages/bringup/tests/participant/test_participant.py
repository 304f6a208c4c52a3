"""`bringup up deepprep --bids …`: refused inputs, words for every shell, and a run with an engine that answers.

The engine of these tests is a program of its own on PATH, which answers `info` and `image inspect` and writes
down how it was called, as no daemon runs in CI.
"""

from __future__ import annotations

import json
import os
import stat
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from bringup.cli.main import run as bringup
from bringup.errors import BringupError
from bringup.recipes import load
from bringup.steps.image.commands import SHELLS, command_line
from bringup.steps.image.participant import (
    ParticipantRun,
    apptainer_words,
    check_inputs,
    container_words,
    image_of,
)

ENGINE = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$1 $2" in
  "image inspect") [ -e "$CALLS.built" ] && echo '[{"Size": 1, "Config": {"User": ""}}]' || exit 1 ;;
esac
case "$1" in
  build) touch "$CALLS.built" ;;
  run) for word in "$@"; do echo "word: $word"; done; echo "$ENGINE_SAYS"; exit "${ENGINE_EXIT:-0}" ;;
esac
"""


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `bids`, `license.txt`; the current one."""
    (tmp_path / "bids" / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "bids" / "dataset_description.json").write_text("{}")
    (tmp_path / "license.txt").write_text("a@example.org\n12345\n *Cabcdef\n FSabcdef\n")
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def engine(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docker on PATH; returns the file of its calls."""
    program = dataset / "programs" / "docker"
    program.parent.mkdir()
    program.write_text(ENGINE)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(dataset / "calls"))
    return dataset / "calls"


WORDS = [
    "up",
    "deepprep",
    "--bids",
    "bids",
    "--out",
    "my out",
    "--license",
    "license.txt",
    "--gpu",
    "RTX 5090",
]


def asked(**more: object) -> ParticipantRun:
    paths = {"bids": Path("bids"), "out": Path("out"), "licence": Path("license.txt")}
    return ParticipantRun(**(paths | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "id"),
    [
        ({"bids": Path("nowhere")}, "no-bids"),
        ({"bids": Path("bids/sub-01")}, "bids-no-subjects"),
        ({"licence": Path("nothing.txt")}, "no-licence-file"),
        ({"licence": Path("bids/dataset_description.json")}, "licence-file-short"),
        ({"out": Path("bids/derivatives")}, "output-in-input"),
        ({"out": Path("bids")}, "output-in-input"),
        ({"out": Path("another name/derivatives")}, "output-in-input"),
        ({"out": Path("license.txt")}, "output-no-folder"),
        ({"device": "banana"}, "no-such-device"),
        ({"device": "-1"}, "no-such-device"),
    ],
)
def test_what_would_fail_after_an_hour_is_refused_now(
    change: dict[str, object], id: str, dataset: Path
) -> None:
    Path("another name").symlink_to(dataset / "bids")
    with pytest.raises(BringupError) as refused:
        check_inputs(asked(**change))
    assert refused.value.id == id


@pytest.mark.parametrize("device", [None, "auto", "cpu", "0", "11"])
def test_devices_as_the_workload_takes_them(device: str | None, dataset: Path) -> None:
    assert check_inputs(asked(device=device)) == ("sub-01",)


def test_subjects_are_counted(dataset: Path) -> None:
    (dataset / "bids" / "sub-02").mkdir()
    (dataset / "bids" / "sub-03.txt").touch()
    assert check_inputs(asked()) == ("sub-01", "sub-02")


def test_the_published_command() -> None:
    """Word for word what DeepPrep's own guide has, with the image's name replaced."""
    words = container_words(image_of(load("deepprep")), "IMAGE", "docker", asked(resume=True), gpus=True)
    line = command_line(words, "bash").replace("\\\n  ", "")
    assert line == (
        'docker run --rm --gpus all --ipc=host -v "$PWD"/bids:/input:ro -v "$PWD"/out:/output '
        '-v "$PWD"/license.txt:/fs_license.txt:ro IMAGE /input /output participant --bold_task_type rest '
        "--fs_license_file /fs_license.txt --device 0 --resume"
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_folders_in_every_shell(shell: str) -> None:
    run = asked(bids=Path("my data"), out=Path("out"))
    words = container_words(image_of(load("deepprep")), "IMAGE", "podman", run, gpus=True)
    line = command_line(words, shell)  # type: ignore[arg-type]
    wanted = {
        "cmd": '"%cd%\\my data:/input:ro"',
        "powershell": '"${PWD}\\my data:/input:ro"',
        "bash": "\"$PWD\"'/my data':/input:ro",
    }
    assert wanted[shell] in line
    assert "--device nvidia.com/gpu=all" in line


def test_options_reach_the_workload() -> None:
    image = image_of(load("deepprep"))
    run = asked(device="1", task="motor", extra=("--anat_only",))
    words = container_words(image, "IMAGE", "docker", run, True)
    assert words[words.index("participant") :] == [
        "participant", "--bold_task_type", "motor", "--fs_license_file", "/fs_license.txt",
        "--device", "1", "--anat_only",
    ]  # fmt: skip
    without = container_words(image, "IMAGE", "docker", asked(), gpus=False)
    assert "--gpus" not in without and without[-1] == "cpu"
    assert "--nv" in apptainer_words(image, "deepprep.sif", run, gpus=True)


def test_a_recipe_without_such_an_image_says_so() -> None:
    with pytest.raises(BringupError, match="participant-no-image"):
        image_of(load("triposr"))


def test_with_an_engine_it_is_built_once_and_run(
    engine: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bringup(WORDS) == 0
    shown = capsys.readouterr().out
    assert "my out" in shown
    log = next((dataset / "state" / "runs" / "deepprep" / "logs").glob("*.log")).read_text()
    assert f"word: {dataset}/my out:/output\n" in log
    assert "word: --bold_task_type\nword: rest\n" in log
    assert (dataset / "my out").is_dir()
    calls = engine.read_text()
    assert calls.count("build ") == 1
    assert bringup([*WORDS, "--resume"]) == 0
    assert engine.read_text().count("build ") == 1
    assert "--resume" in engine.read_text()
    assert bringup([*WORDS, "--fresh"]) == 0
    assert engine.read_text().count("\nbuild ") + engine.read_text().startswith("build ") == 2


def test_a_run_that_fails_is_explained(
    engine: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "RuntimeError: CUDA error: no kernel image is available for execution on the device"
    monkeypatch.setenv("ENGINE_SAYS", text)
    monkeypatch.setenv("ENGINE_EXIT", "3")
    assert bringup([*WORDS, "--lang", "en"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "no-kernel-image" in said and "exit status 3" in said and "--resume" in said


def test_a_dry_run_runs_nothing(engine: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bringup([*WORDS, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(
        document,
        json.loads((resources.files("bringup.report") / "schemas" / "participant.json").read_text("utf-8")),
    )
    assert document["ran"] is False and document["engine"] == "docker"
    assert set(document["commands"]) == {"cmd", "powershell", "bash"}
    assert (Path(document["folder"]) / "Dockerfile").is_file()
    assert "run " not in engine.read_text() and "build " not in engine.read_text()
    assert not (dataset / "my out").exists()


def test_without_an_engine_the_commands_are_printed_and_nothing_is_claimed(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(dataset / "nothing"))
    assert bringup([*WORDS, "--lang", "en"]) == 1
    said = capsys.readouterr()
    for text in ("cmd.exe", "PowerShell", "bash", "%cd%\\bids", "${PWD}\\bids", "apptainer run"):
        assert text in said.out, text
    assert "Nothing was run" in said.err
    assert not (dataset / "my out").exists()


def test_options_that_belong_together(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bringup(["up", "deepprep", "--bids", "bids", "--out", "out"]) == 2
    assert "--license" in capsys.readouterr().err
