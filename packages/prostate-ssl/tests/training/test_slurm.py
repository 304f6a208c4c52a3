"""Jobs for Slurm: the script, what is sent, the signal at the time limit, and a real job on this machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from submitit.core.utils import DelayedSubmission

from prostate_ssl.cli.main import run
from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.training.metrics import read_metrics
from prostate_ssl.training.session import Session
from prostate_ssl.training.slurm import Resources, TrainJob, submit
from prostate_ssl.training.stopping import StopRequest


def arguments(small_overrides: list[str], folder: Path) -> list[str]:
    return ["submit", "--config-file", "demo", "--output-dir", str(folder), *small_overrides]


def test_a_dry_run_prints_the_script_and_writes_nothing(small_overrides, tmp_path, capsys):
    asked = ["--nodes", "2", "--gpus", "4", "--cpus", "8", "--hours", "1.5", "--partition", "long"]
    asked += ["--mem", "64", "--setup", "module load cuda", "--dry-run"]
    assert run([*arguments(small_overrides, tmp_path / "run"), *asked]) == 0
    script = capsys.readouterr().out
    for line in (
        "nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=8", "time=90", "partition=long",
        "mem=65536M", "signal=USR2@90",
    ):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    assert " --kill-on-bad-exit=1 " in script
    assert "\nmodule load cuda\n" in script and "srun" in script and "total batch 16" in script
    assert not (tmp_path / "run").exists()


def test_what_is_wrong_is_said_before_queueing(tmp_path, capsys):
    assert run(["submit", "--config-file", "demo", "--output-dir", str(tmp_path), "--dry-run"]) == 2
    assert "placeholder" in capsys.readouterr().err
    assert run(["submit", "--config-file", "demo", "optim.base_rl=1"]) == 2
    assert "optim.base_lr" in capsys.readouterr().err


def test_without_slurm_one_sentence_says_so(small_overrides, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(arguments(small_overrides, tmp_path / "run")) == 1
    assert "`srun` is not on PATH" in capsys.readouterr().err


def test_sbatch_gets_the_script_and_the_job(small_overrides, tmp_path, capsys, monkeypatch):
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (
        ("srun", "exit 0"),
        ("sbatch", f'cp "$1" {tmp_path}/sent; echo Submitted batch job 42'),
    ):
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    assert run([*arguments(small_overrides, tmp_path / "run"), "--nodes", "3", "--gpus", "2"]) == 0
    assert "Job 42: 3 nodes × 2 processes, total batch 12" in capsys.readouterr().out
    assert "#SBATCH --nodes=3\n" in (tmp_path / "sent").read_text()
    sent = DelayedSubmission.load(tmp_path / "run" / "slurm" / "42_submitted.pkl").function
    assert isinstance(sent, TrainJob) and sent.config["train"]["output_dir"] == str(tmp_path / "run")
    again = TrainJob(sent.config, resume=False).checkpoint()
    assert again.function == TrainJob(sent.config, resume=True)


def test_the_time_limits_signal_goes_back_to_its_handler_after_saving():
    caught = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: caught.append(number))
    try:
        stop = StopRequest(Session(torch.device("cpu"), 0, 1))
        signal.raise_signal(signal.SIGUSR2)
        assert stop.agreed(0, 10) and stop.received == signal.SIGUSR2 and not caught
        signal.raise_signal(signal.SIGUSR2)
        assert caught == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.slow
def test_a_local_job_trains_in_a_process_of_its_own(small_overrides, tmp_path):
    cfg = load_config("demo", [*small_overrides, f"train.output_dir={tmp_path / 'run'}"])
    job = submit(cfg, Resources(gpus=0, hours=0.1), local=True)
    assert job.result() == 12
    assert len(read_metrics(tmp_path / "run")) == 12
    with pytest.raises(ProstateError, match="one node"):
        submit(cfg, Resources(nodes=2, gpus=0), local=True)
