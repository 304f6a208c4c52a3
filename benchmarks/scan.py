"""How long a scan of an environment takes, cold and warm, and how long cuobjdump takes for the same files.

    python benchmarks/scan.py ENVIRONMENT [--cuobjdump PATH] [--budget SECONDS] [--note TEXT]

Each run appends one row to `scan.jsonl` beside this file (or to --output). `first_seconds` is the first
scan as it comes (cold on a machine that has just started). «Cold» means that the kernel was asked to
forget every file below the environment (posix_fadvise), and, where that is allowed, all caches; the row
says which. cuobjdump is run on each file with CUDA code, the smallest first, until the
budget is spent; the ratio is over the files that it finished.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bringup.binaries.report import BinaryReport, Unreadable, scan_file, scan_path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def machine() -> dict[str, Any]:
    """Processor, cores and system, without the host's name."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def forget(root: Path) -> str:
    """Drop cached pages of every file; returns how thoroughly that could be done."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() or not path.is_file():
                continue
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
    except OSError:
        return "file pages dropped"
    return "all caches dropped"


def _scan(root: Path) -> tuple[float, list[BinaryReport], int]:
    started = time.perf_counter()
    rows = list(scan_path(root))
    seconds = time.perf_counter() - started
    reports = [row for row in rows if isinstance(row, BinaryReport)]
    return seconds, reports, sum(isinstance(row, Unreadable) for row in rows)


def _command(root: Path) -> float:
    """The whole command, interpreter's start included."""
    code = "from bringup.cli.main import main; main()"
    started = time.perf_counter()
    command = [sys.executable, "-c", code, "scan", str(root), "--gpu", "RTX 5090", "--json"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of three: the one that other programs disturbed least."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def compare(cuobjdump: str, reports: list[BinaryReport], budget: float) -> dict[str, Any]:
    """Seconds of cuobjdump and of the scan over the same files, both warm.

    A file counts if cuobjdump read it to its end: it gives up at the first image for a chip that its own
    release no longer supports. It runs once on each, since the largest take it most of a minute.
    """
    with_code = sorted((row for row in reports if row.has_device_code), key=lambda row: row.size)
    deadline = time.perf_counter() + budget
    theirs = ours = 0.0
    done: list[BinaryReport] = []
    refused = 0
    for row in with_code:
        command = [cuobjdump, "--list-elf", row.path]
        started = time.perf_counter()
        try:
            ran = subprocess.run(command, capture_output=True, timeout=max(deadline - started, 0.001))
        except subprocess.TimeoutExpired:
            break
        if ran.returncode:
            refused += 1
            continue
        theirs += time.perf_counter() - started
        ours += _best(partial(scan_file, Path(row.path)))
        done.append(row)
    return {
        "files": len(done),
        "of": len(with_code),
        "refused_by_cuobjdump": refused,
        "bytes": sum(row.size for row in done),
        "cuobjdump_seconds": round(theirs, 3),
        "scan_seconds": round(ours, 5),
        "ratio": round(theirs / ours, 1) if ours else None,
    }


def _largest(reports: list[BinaryReport]) -> dict[str, Any] | None:
    """The largest file with CUDA code: median of nine warm readings."""
    row = max((row for row in reports if row.has_device_code), key=lambda row: row.size, default=None)
    if row is None:
        return None
    times = []
    for _ in range(9):
        started = time.perf_counter()
        scan_file(Path(row.path))
        times.append(time.perf_counter() - started)
    milliseconds = round(sorted(times)[4] * 1000, 2)
    return {
        "name": Path(row.path).name,
        "bytes": row.size,
        "containers": len(row.containers),
        "milliseconds": milliseconds,
    }


def measure(root: Path, cuobjdump: str | None, budget: float) -> dict[str, Any]:
    """One row."""
    first, _, _ = _scan(root)
    cache = forget(root)
    cold, reports, unreadable = _scan(root)
    warm = sorted(_scan(root)[0] for _ in range(5))[2]
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        "benchmark": "scan",
        "command": f"python benchmarks/scan.py {root}",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine(),
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "binaries": len(reports),
        "with_cuda_code": sum(row.has_device_code for row in reports),
        "unreadable": unreadable,
        "first_seconds": round(first, 3),
        "cold": cache,
        "cold_seconds": round(cold, 3),
        "warm_seconds": round(warm, 3),
        "command_seconds": round(_command(root), 3),
        "largest": _largest(reports),
        "against_cuobjdump": compare(cuobjdump, reports, budget) if cuobjdump else None,
    }


def main() -> None:
    """Measure and append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", type=Path)
    parser.add_argument("--cuobjdump", default=shutil.which("cuobjdump"))
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for cuobjdump")
    parser.add_argument("--note", default="", help="what the environment is")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("scan.jsonl"))
    given = parser.parse_args()
    row = measure(given.environment, given.cuobjdump, given.budget) | {"note": given.note}
    with given.output.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
