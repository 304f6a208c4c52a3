"""Failures of the world outside are told in one paragraph, and by the first rank before the others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

CODE = "import sys; from prostate_ssl.cli.main import run; sys.exit(run(sys.argv[1:]))"


def _environment(rank: str) -> dict[str, str]:
    """With the buffer that a user's output has: what does not fit on the disk may show only at the end."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {"RANK": rank}


def _explain_into(place: str, rank: str) -> tuple[subprocess.CompletedProcess[str], float]:
    begun = time.monotonic()
    with Path(place).open("w") as out:
        done = subprocess.run(
            [sys.executable, "-c", CODE, "config", "--explain", "student"],
            env=_environment(rank), stdout=out, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    return done, time.monotonic() - begun


def test_a_full_disk_is_no_fault_of_ours():
    done, _ = _explain_into("/dev/full", "0")
    assert done.returncode == 1 and "The disk is full" in done.stderr and "fault" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-c", CODE, "config", "--explain", "student"],
        env=_environment("0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stdout and running.stderr
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


@pytest.mark.slow
def test_other_ranks_give_the_first_time_to_say_it():
    done, seconds = _explain_into("/dev/full", "1")
    assert done.returncode == 1 and "The disk is full" in done.stderr
    assert seconds > 20  # by then its launcher has ended it


@pytest.mark.parametrize("verb", ["phantom", "crops", "split", "finetune"])
def test_a_negative_seed_is_refused_as_the_users_mistake(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from prostate_ssl.cli.main import run

    assert run([verb, "--seed", "-1", str(tmp_path)]) == 2
    assert "--seed" in capsys.readouterr().err
