"""`bringup monitor`: real samples of this machine, whole lines in the CSV, and clean ends."""

from __future__ import annotations

import csv
import os
import pty
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from bringup.errors import BringupError
from bringup.report.monitor import Peaks, plain_line
from bringup.steps.monitor.samples import GpuSample, Sample, Sampler, throttle_reasons
from bringup.steps.monitor.table import COLUMNS, CsvFile, rows

COMMAND = [sys.executable, "-c", "from bringup.cli.main import main; main()", "monitor"]
GPU = GpuSample(
    0,
    'NVIDIA "X", 5090',
    97,
    61_200_000_000,
    80_000_000_000,
    412.34,
    450.0,
    61,
    1980,
    2619,
    ("power-cap", "idle"),
)


@pytest.fixture(scope="module")
def here() -> Sample:
    with Sampler(Path.cwd()) as sampler:
        time.sleep(0.1)
        return sampler.read()


def heeding_interrupts() -> None:
    """Before exec: a shell's background jobs, this test's process among them perhaps, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"LC_ALL": "C.UTF-8", "COLUMNS": "120", "TERM": "xterm-256color"} | more


def test_this_machine(here: Sample) -> None:
    host = here.host
    assert abs(here.time - time.time()) < 600
    assert 0 <= host.cpu <= 100
    assert 0 < host.memory_used < host.memory_total
    assert host.cores > 0
    assert host.disk_free > 0


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (pynvml.nvmlClocksEventReasonNone, ()),
        (pynvml.nvmlClocksEventReasonGpuIdle, ("idle",)),
        (
            pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonHwThermalSlowdown,
            ("power-cap", "hardware-thermal"),
        ),
        (1 << 40, ("bit-40",)),
    ],
)
def test_throttle_reasons(bits: int, names: tuple[str, ...]) -> None:
    assert throttle_reasons(bits) == names


def test_rows_are_read_back(here: Sample, tmp_path: Path) -> None:
    silent = GpuSample(1, "?", None, None, None, None, None, None, None, None, None)
    file = CsvFile(tmp_path / "deep" / "m.csv")
    file.add(replace(here, gpus=(GPU, silent)))
    file.add(replace(here, gpus=()))
    file.close()
    with (tmp_path / "deep" / "m.csv").open(encoding="utf-8", newline="") as stream:
        read = list(csv.DictReader(stream))
    assert [row["gpu"] for row in read] == ["0", "1", ""]
    assert read[0]["gpu_name"] == 'NVIDIA "X", 5090'
    assert read[0]["gpu_power_w"] == "412.3"
    assert read[0]["gpu_throttle"] == "power-cap|idle"
    assert read[1]["gpu_percent"] == ""
    assert {row["memory_total_bytes"] for row in read} == {str(here.host.memory_total)}
    assert tuple(read[0]) == COLUMNS


def test_a_file_is_continued_and_a_torn_line_ended(here: Sample, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    for _ in range(2):
        file = CsvFile(path)
        file.add(replace(here, gpus=()))
        file.close()
    with path.open("ab") as stream:
        stream.write(b"2026-11-21T08:58:43,12")
    file = CsvFile(path)
    file.add(replace(here, gpus=()))
    file.close()
    lines = path.read_text().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("time,")
    assert lines[3] == "2026-11-21T08:58:43,12"
    assert len(lines[4].split(",")) == len(COLUMNS)


def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(BringupError, match="monitor-csv-other"):
        CsvFile(path)
    assert path.read_text() == "a,b\n1,2\n"


def test_two_writers_do_not_mix_their_lines(here: Sample, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    writers = [
        subprocess.Popen(
            [*COMMAND, "--interval", "0.1", "--duration", "1", "--csv", str(path)],
            stdout=subprocess.DEVNULL,
            env=environment(),
        )
        for _ in range(2)
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    lines = path.read_bytes().splitlines()
    assert {line.count(b",") for line in lines} == {len(COLUMNS) - 1}
    assert len(lines) > 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said(here: Sample) -> None:
    with pytest.raises(BringupError, match="monitor-csv-unwritable"):
        CsvFile(Path("/dev/full"))


def test_plain_lines_and_the_file_where_no_terminal_is(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    ran = subprocess.run(
        [*COMMAND, "--interval", "0.2", "--duration", "0.6", "--csv", str(path)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) >= 3
    assert all("CPU" in line and "\x1b" not in line for line in lines[:-1])
    assert "peaks" in ran.stdout
    assert len(path.read_text().splitlines()) >= 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    running = subprocess.Popen(
        [*COMMAND, "--interval", "0.2", "--csv", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=heeding_interrupts,
    )
    assert running.stdout is not None
    running.stdout.readline()
    running.send_signal(number)
    output, errors = running.communicate(timeout=30)
    assert running.returncode == 0
    assert errors == ""
    assert "peaks" in output
    assert path.read_bytes().endswith(b"\n")


def test_a_terminal_gets_a_live_table(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        [*COMMAND, "--interval", "0.3"],
        stdout=follower,
        stderr=follower,
        stdin=follower,
        env=environment(),
        preexec_fn=heeding_interrupts,
    )
    os.close(follower)
    seen = b""
    deadline = time.monotonic() + 30
    while seen.count("░".encode()) < 60 and time.monotonic() < deadline:
        if select.select([leader], [], [], 1)[0]:
            seen += os.read(leader, 65536)
    running.send_signal(signal.SIGINT)
    while running.poll() is None and time.monotonic() < deadline:
        if select.select([leader], [], [], 0.2)[0]:
            try:
                seen += os.read(leader, 65536)
            except OSError:
                break
    assert running.wait(timeout=10) == 0
    os.close(leader)
    text = seen.decode(errors="replace")
    assert "Ctrl-C" in text
    assert "\x1b[" in text  # Redrawn in place.
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--interval", "0"], "0.1"), (["--interval", "nan"], "nan"), (["--duration", "-1"], "-1")],
)
def test_refusals(arguments: list[str], words: str) -> None:
    ran = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert ran.returncode == 2
    assert words in ran.stderr


def test_peaks_and_lines_with_a_gpu(here: Sample) -> None:
    sample = replace(here, gpus=(GPU,))
    assert "97 %" in plain_line(sample)
    assert "power limit" in plain_line(sample)
    assert "idle" not in plain_line(sample)
    peaks = Peaks()
    peaks.add(sample)
    peaks.add(replace(sample, gpus=(replace(GPU, utilization=12, throttle=()),)))
    assert peaks.gpus[0]["busy"] == 97
    assert peaks.throttle[0] == {"power-cap"}
    assert b"".join(rows(sample)).count(b"\n") == 1
