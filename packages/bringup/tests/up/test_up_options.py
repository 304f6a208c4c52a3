"""Options of `bringup up` that would be ignored are refused, before anything is looked at or installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bringup.cli.main import run as bringup

LICENCE = ["--license", "license.txt"]
REFUSED = [
    (["triposr", "--device", "0", "--", "x.png"], "--device goes with --bids"),
    (["gaussian-splatting", "--task", "rest", "--resume", "--", "-s", "x"], "--task, --resume"),
    (["prostate-ssl", "--demo", "--json"], "--json goes with --bids"),
    (["deepprep", "--bids", "in", "--out", "out", *LICENCE, "--weights", "w"], "--weights does not go"),
    (["deepprep", "--bids", "in", "--out", "out", *LICENCE, "--demo"], "--demo does not go"),
    (["deepprep", "--bids", "in", "--out", "out", *LICENCE, "--project", "p"], "--project does not go"),
    (["deepprep", "--bids", "in"], "--out and --license belong together"),
    (["deepprep"], "runs in its own container image"),
    (["triposr", "--demo"], "--demo means nothing to triposr"),
    (["triposr", "--data", "folder"], "--data means nothing to triposr"),
    (["triposr"], "bringup up triposr -- ARGUMENTS"),
    (["gaussian-splatting"], "bringup up gaussian-splatting --demo · bringup up"),
    (["gaussian-splatting", "--weights", "w", "--demo"], "--weights means nothing"),
    (["prostate-ssl", "--models", "m", "--demo"], "--models means nothing"),
    (["--project", ".", "--source", "s"], "--source belongs to a recipe"),
    (["--project", ".", "--profile", "compiled"], "--profile belongs to a recipe"),
    (["prostate-ssl", "--demo", "--cpu", "--gpu", "sm_90"], "give one of the two"),
    (["prostate-ssl", "--demo", "--data", "folder"], "Say what to run on"),
    (["triposr", "--weights", "nowhere", "--", "x.png"], "--weights: there is no folder nowhere"),
    (["prostate-ssl", "--demo", "--find-links", "gone"], "--find-links: there is no folder gone"),
    ([], "Say what to plan for"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=lambda value: " ".join(value)[:40])
def test_what_would_be_ignored_is_refused(
    words: list[str],
    said: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRINGUP_LANG", "en")
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "400")
    assert bringup(["up", *words]) == 2
    shown = capfd.readouterr()
    assert said in shown.err and "Traceback" not in shown.err
    assert not (tmp_path / "state").exists()


def test_a_pack_is_a_folder(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "pack").write_text("a file\n")
    assert bringup(["fetch", "triposr", "--to", str(tmp_path / "pack"), "--cpu", "--lang", "en"]) == 2
    assert "is a file; a pack is a folder" in " ".join(capfd.readouterr().err.split())


def test_a_workload_that_needs_a_gpu_is_not_planned_for_a_cpu(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path / "state"))
    assert (
        bringup(["plan", "gaussian-splatting", "--cpu", "--lang", "en", "-o", str(tmp_path / "plan.toml")])
        == 1
    )
    assert "--cpu out" in " ".join(capfd.readouterr().err.split()) and not (tmp_path / "plan.toml").exists()
