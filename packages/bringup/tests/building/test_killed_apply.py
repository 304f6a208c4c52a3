"""`bringup apply`, killed again and again while it compiles an extension and rebuilds a model; then resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import torch

from bringup.facts.environment import read_environment
from bringup.facts.interpreters import ask
from bringup.plan.folders import content_of
from bringup.plan.model import Plan, write_plan
from bringup.plan.steps import BuildExtension, ConvertCheckpoints, CreateEnvironment, FetchSource, Verify

from .projects import setuptools_project

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from bringup.cli.main import main; main()"]
# Seconds after the step began: its toolkit is looked for, its build environment made, nvcc at work, …
MOMENTS = {"build-plain-cuda": (0.1, 0.6, 1.5, 3.0, 5.0), "models": (0.1, 0.6, 1.5)}


def plan_of(tmp_path: Path) -> Plan:
    """Over the torch of the environment that runs the tests."""
    workload = tmp_path / "workload"
    setuptools_project(workload / "ops")
    models = tmp_path / "models"
    models.mkdir()
    for number in range(3):
        torch.save(torch.nn.Linear(64, 32), models / f"{number}.pt")
    interpreter = ask(sys.executable)
    assert interpreter is not None
    return Plan(
        schema="bringup/plan/1",
        recipe="small",
        environment="small",
        platform=interpreter.platform,
        steps=(
            CreateEnvironment(
                id="environment",
                python=interpreter.version,
                interpreter=interpreter.path,
                overlay=(sysconfig.get_path("purelib"),),
            ),
            FetchSource(
                id="source",
                repository=workload.as_uri(),
                commit="0" * 40,
                local=str(workload),
                content=content_of(workload),
            ),
            BuildExtension(
                id="build-plain-cuda",
                distribution="plain-cuda",
                imports=("plain_cuda",),
                folder="ops",
                architectures=("sm_90", "sm_120"),
            ),
            ConvertCheckpoints(
                id="models",
                folder=str(models),
                files="*.pt",
                class_path="torch.nn:Linear",
                keywords={"in_features": 64, "out_features": 32},
            ),
            Verify(id="verify", imports=("plain_cuda",)),
        ),
    )


def start(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "apply", str(file), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )


def done_steps(home: Path) -> set[str]:
    lines = [line for file in home.glob("environments/small/*/journal.jsonl") for line in file.open()]
    return {json.loads(line)["step"] for line in lines if line.endswith("\n")}


def test_killed_while_it_builds_and_rebuilds(home: Path, tmp_path: Path) -> None:
    document = plan_of(tmp_path)
    file = tmp_path / "plan.toml"
    write_plan(document, file)
    names = [step.id for step in document.steps]
    killed = 0
    for name, moments in MOMENTS.items():
        before = names[names.index(name) - 1]
        for moment in moments:
            process = start(file)
            deadline = time.monotonic() + 180
            while before not in done_steps(home) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(moment)
            killed += process.poll() is None
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert killed >= 4
    process = start(file)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors + output
    result = json.loads(output)
    assert result["proof"]["ok"]
    environment = Path(result["environment"])
    (built,) = (row for row in read_environment(environment).binaries if "plain_cuda" in row.path)
    assert sorted(built.machine_code) == ["sm_120", "sm_90"]
    rebuilt = sorted(environment.parent.rglob("*.safetensors"))
    assert len(rebuilt) == 3, rebuilt
    assert not list((home / "cache").rglob(".*.work"))
    process = start(file)
    again, errors = process.communicate(timeout=300)
    assert json.loads(again)["reused"], errors
