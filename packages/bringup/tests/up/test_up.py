"""`bringup up prostate-ssl`, as a stranger runs it: demo, SIGKILL in training, again, real DICOM."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[4]
DICOM = CHECKOUT.parent / "shared" / "data" / "prostatex"
COMMAND = [sys.executable, "-c", "from bringup.cli.main import main; main()", "up", "prostate-ssl"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


def variables(home: Path) -> dict[str, str]:
    return os.environ | {"BRINGUP_HOME": str(home), "LC_ALL": "C.UTF-8"}


def up(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables(home), timeout=1200)


def metrics(run: Path) -> dict[str, dict[str, float]]:
    document: dict[str, dict[str, float]] = json.loads((run / "train" / "training_metrics.json").read_text())
    return document


def test_a_kill_in_training_costs_little_and_the_demo_ends_well(home: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--demo"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=variables(home),
        start_new_session=True,
    )
    run = home / "runs" / "prostate-ssl-demo"
    deadline = time.monotonic() + 900
    while not list(run.glob("train/model_*.pth")):
        assert process.poll() is None, "the demo ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(["pkill", "-KILL", "-f", str(run)], check=False)

    ran = up(home, "--demo")
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    page = Path(ran.stdout.strip().splitlines()[-1])
    assert page == run / "report.html"
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") >= 2  # loss curves and PCA
    assert "http://" not in text.replace("http://www.w3.org", "")
    log = (run / "train" / "log.txt").read_text()
    assert re.search(r"resum|checkpoint", log, re.IGNORECASE)
    values = metrics(run)
    first, last = values[min(values, key=int)], values[max(values, key=int)]
    assert last["total_loss"] < 0.85 * first["total_loss"]


def test_again_does_nothing_twice(home: Path) -> None:
    began = time.monotonic()
    ran = up(home, "--demo")
    assert ran.returncode == 0
    assert time.monotonic() - began < 60
    assert "…" not in ran.stdout  # no step was started


@pytest.mark.skipif(not DICOM.is_dir(), reason="the real DICOM is not beside the checkout (../shared/data)")
def test_real_dicom_takes_the_same_path(home: Path, tmp_path: Path) -> None:
    root = json.loads(_env_list(home))["environments"][0]["path"]
    program = Path(root) / "bin" / "prostate-ssl"
    data = tmp_path / "data"
    imported = subprocess.run(
        [str(program), "import", "dicom", str(DICOM), "--out", str(data)], capture_output=True, text=True
    )
    assert imported.returncode == 0, imported.stderr
    assert len([folder for folder in data.iterdir() if folder.is_dir()]) == 2
    ran = up(home, "--data", str(data), "--", "optim.epochs=2", "optim.warmup_epochs=1")
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert Path(ran.stdout.strip().splitlines()[-1]).is_file()


def _env_list(home: Path) -> str:
    command = [*COMMAND[:3], "env", "list", "--json"]
    return subprocess.run(command, capture_output=True, text=True, env=variables(home), check=True).stdout
