"""What a workload prints of its own times: read from real output, shown in the terminal and in the report."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bringup.binaries.architectures import ComputeCapability
from bringup.recipes import load
from bringup.recipes.schema import Recipe, Stage, Words
from bringup.report.messages import choose_language
from bringup.report.run_report import Timed, write_run_report
from bringup.report.tables import times_table
from bringup.steps.environments import Slot
from bringup.steps.observer import Silent
from bringup.steps.run import Run, cuda_variables, run_stages

# As TripoSR's own timer logs them.
PRINTED = """2026-11-21 08:00:00,000 - INFO - Initializing model ...
2026-11-21 08:00:03,500 - INFO - Initializing model finished in 3500.00ms.
2026-11-21 08:00:04,000 - INFO - Running model finished in 670.50ms.
2026-11-21 08:00:05,000 - INFO - Exporting mesh finished in 80.00ms.
"""
PARTS = (("Initializing model", 3.5), ("Running model", 0.6705), ("Exporting mesh", 0.08))


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slot:
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path / "state"))
    slot = Slot("some", "key")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(slot.target.root)], check=True)
    return slot


def recipe() -> Recipe:
    known = load("triposr")
    stage = Stage(
        name="run",
        title=Words(en="Picture to mesh", zh="从图片生成网格"),
        command=("python", "-c", f"print({PRINTED!r})"),
        times=known.stages[0].times,
    )
    return known.model_copy(update={"stages": (stage,)})


def test_the_workloads_own_times_are_read(slot: Slot, tmp_path: Path) -> None:
    (result,) = run_stages(recipe(), Run("arguments", tmp_path / "run", tmp_path), slot, Silent())
    assert [(name, pytest.approx(seconds)) for name, seconds in result.parts] == list(PARTS)


def test_what_is_compiled_late_sees_the_plans_chips(
    slot: Slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    program = (
        "import os; print('seen finished in', os.environ.get('TORCH_CUDA_ARCH_LIST'), os.environ['HF_HOME'])"
    )
    known = recipe()
    stage = known.stages[0].model_copy(
        update={
            "command": ("python", "-c", program),
            "environment": {"HF_HOME": "{run}/hub"},
            "times": "(?P<name>seen) finished in (?P<text>.+)",
        }
    )
    chips = [ComputeCapability.parse("sm_90"), ComputeCapability.parse("sm_120")]
    assert cuda_variables(chips, False) == {"TORCH_CUDA_ARCH_LIST": "9.0;12.0"}
    assert cuda_variables([], True) == {"CUDA_LAUNCH_BLOCKING": "1"}
    run = Run("arguments", tmp_path / "run", tmp_path, variables=cuda_variables(chips, True))
    (result,) = run_stages(known.model_copy(update={"stages": (stage,)}), run, slot, Silent())
    assert result.parts == (("seen", f"9.0;12.0 {tmp_path / 'run'}/hub"),)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    assert cuda_variables(chips, False) == {}  # the user's own is kept


@pytest.mark.parametrize(("language", "heading"), [("en", "Stage"), ("zh", "阶段")])
def test_times_are_shown(language: str, heading: str, tmp_path: Path) -> None:
    choose_language(language)
    try:
        rows = [Timed("Picture to mesh", 5.4, False, PARTS)]
        stream = io.StringIO()
        Console(file=stream, width=80).print(times_table(rows))
        page = tmp_path / "report.html"
        write_run_report(page, title="T", sections_file=None, facts=[], choices=[], checks=[], timed=rows)
    finally:
        choose_language(None)
    shown = stream.getvalue()
    assert heading in shown
    for text in ("Picture to mesh", "5.4 s", "Initializing model", "3.50 s", "0.67 s", "80 ms"):
        assert text in shown
        assert text in page.read_text(encoding="utf-8")
