"""Checkpoints survive kills, full disks and damaged files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.files import write_atomically
from prostate_ssl.training.checkpoint import checkpoint_files, newest_checkpoint, read_checkpoint
from prostate_ssl.training.metrics import read_metrics
from prostate_ssl.training.trainer import train


def losses(folder: Path) -> dict[int, float]:
    return {i: r["total_loss"] for i, r in read_metrics(folder).items()}


def test_the_file_is_tensors_and_plain_values_under_the_published_names(small_config, tmp_path):
    train(small_config)
    content = torch.load(tmp_path / "run" / "model_0000012.rank_0.pth", weights_only=True)
    assert content["iteration"] == 11
    names = set(content["model"])
    assert {"student.backbone.cls_token", "teacher.backbone.blocks.0.attn.qkv.weight"} <= names
    assert {"student.dino_head.last_layer.weight_g", "dino_loss.center", "ibot_patch_loss.center"} <= names
    assert content["optimizer"]["student.backbone.cls_token"]["exp_avg"].shape == (1, 1, 192)


def test_a_damaged_checkpoint_is_passed_over(small_config, tmp_path):
    train(small_config)
    folder = tmp_path / "run"
    newest = folder / "model_0000012.rank_0.pth"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    with pytest.raises(ProstateError, match="cannot be read"):
        read_checkpoint(newest)
    before = losses(folder)
    assert train(small_config).completed == 12
    assert losses(folder) == before


def test_where_every_checkpoint_is_damaged_nothing_is_begun_again(small_config, tmp_path):
    train(small_config)
    folder = tmp_path / "run"
    before = losses(folder)
    for path, content in zip(checkpoint_files(folder), (b"", b"PK\x03\x04", bytes(5000)), strict=True):
        path.write_bytes(content)
    with pytest.raises(ProstateError, match=r"No checkpoint of .* can be read.*--no-resume"):
        train(small_config)
    assert losses(folder) == before
    assert train(small_config, resume=False).completed == 12


def test_a_checkpoint_of_another_architecture_is_refused(small_config, small_overrides, tmp_path):
    train(small_config)
    other = load_config(
        "demo", [*small_overrides, f"train.output_dir={tmp_path / 'run'}", "student.arch=medical_vit_small"]
    )
    with pytest.raises(ProstateError, match="another configuration"):
        train(other)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def half(file) -> None:
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, half)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_the_last_good_checkpoint(small_config, small_overrides, tmp_path):
    train(small_config)
    folder = tmp_path / "run"
    size = (folder / "model_0000012.rank_0.pth").stat().st_size
    longer = [*small_overrides, "optim.epochs=9"]
    # The kernel refuses to let any file grow beyond half a checkpoint: writes fail as on a full disk.
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}));"
        "from prostate_ssl.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-B",  # no truncated .pyc files
        "-c",
        code,
        "train",
        "--config-file",
        "demo",
        "--output-dir",
        str(folder),
        *longer,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "could not be written" in done.stderr and "model_0000012.rank_0.pth" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.glob(".*.tmp"))
    newest = newest_checkpoint(folder)
    assert newest and newest.name == "model_0000012.rank_0.pth"
    assert read_checkpoint(newest)["iteration"] == 11
    assert train(load_config("demo", [*longer, f"train.output_dir={folder}"])).completed == 18


@pytest.mark.parametrize("limit", [pytest.param(4000, marks=pytest.mark.slow), 6000])
def test_a_disk_that_is_full_between_checkpoints_is_said_once(small_config, small_overrides, tmp_path, limit):
    train(small_config)
    folder = tmp_path / "run"
    for name in ("log.txt", "training_metrics.jsonl", "training_metrics.json", "curves.png"):
        (folder / name).unlink()
    # No file may grow beyond the limit: the metrics, the log and TensorBoard's thread meet that first.
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from prostate_ssl.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    longer = [*small_overrides, "optim.epochs=30", "train.saveckp_iterations=100"]
    arguments = ["train", "--config-file", "demo", "--output-dir", str(folder), *longer]
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "The disk is full" in done.stderr
    assert newest_checkpoint(folder) == folder / "model_0000012.rank_0.pth"
    assert read_checkpoint(folder / "model_0000012.rank_0.pth")["iteration"] == 11


@pytest.mark.slow
@pytest.mark.parametrize("taker", ["/dev/full", "a reader that leaves"])
def test_output_that_nobody_takes_does_not_end_a_training(small_overrides, tmp_path, taker):
    arguments = ["train", "--config-file", "demo", "--output-dir", str(tmp_path), *small_overrides]
    command = [sys.executable, "-m", "prostate_ssl.cli.main", *arguments]
    # With the buffer that a user's output has: what it holds is written again at the very end.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("wb") as full:
        into = full if taker == "/dev/full" else subprocess.PIPE
        running = subprocess.Popen(command, env=buffered, stdout=into, stderr=subprocess.PIPE, text=True)
        if running.stdout:
            running.stdout.readline()
            running.stdout.close()
        said = running.stderr.read()
        running.stderr.close()
        assert running.wait(120) == 0
    assert said.count("\n") == 1 and "log.txt has every line" in said
    assert "[11/12]" in (tmp_path / "log.txt").read_text()
    assert newest_checkpoint(tmp_path).name == "model_0000012.rank_0.pth"


@pytest.mark.slow
def test_twenty_kills_lose_no_more_than_the_interval(small_config, small_overrides, tmp_path):
    epochs, folder = 150, tmp_path / "killed"

    def command(output):
        arguments = ["--config-file", "demo", "--output-dir", str(output), *small_overrides]
        return [sys.executable, "-m", "prostate_ssl.train", *arguments, f"optim.epochs={epochs}"]

    # The same number of threads for both: another one sums in another order.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path / "run"), env=environment, stdout=subprocess.DEVNULL, check=True)
    whole = losses(tmp_path / "run")
    chance = random.Random(0)
    kills = 0
    while kills < 20:
        before = newest_checkpoint(folder) if folder.is_dir() else None
        start = read_checkpoint(before)["iteration"] + 1 if before else 0
        process = subprocess.Popen(
            command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        wanted = start + chance.randint(1, 6)
        while process.poll() is None and max(losses(folder), default=-1) < wanted:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        reached = max(losses(folder), default=-1) + 1
        for path in folder.glob("model_*"):
            read_checkpoint(path)
        newest = newest_checkpoint(folder)
        saved = read_checkpoint(newest)["iteration"] + 1 if newest else 0
        assert reached - saved <= 3 + 1, (reached, saved)
        if saved >= 2 * epochs:
            break
    assert kills == 20
    subprocess.run(command(folder), env=environment, stdout=subprocess.DEVNULL, check=True)
    assert losses(folder) == whole
