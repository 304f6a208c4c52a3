"""Conversion against copying and hashing, and against `torch.load` + safetensors' `save_file`, in one run.

    python benchmarks/convert.py [--gigabytes 1] [--repeats 8]

Writes one row a run to `convert.jsonl`. All times are wall-clock seconds, the best of the repeats; every
contender reads the same file from the page cache and writes to the same disk.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bringup.checkpoints import convert, convert_all


def best(contenders: dict[str, Callable[[Path], object]], folder: Path, repeats: int) -> dict[str, float]:
    """Seconds of the quickest of `repeats` calls of each, in turns, each with a folder of its own.

    Overwriting would spare some contenders the system's search for free pages, and so would coming after one
    that has just given its pages back: the order changes from round to round.
    """
    names = list(contenders)
    seconds = dict.fromkeys(names, float("inf"))
    for number in range(repeats):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                started = time.perf_counter()
                contenders[name](Path(fresh))
                seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def make_checkpoint(path: Path, size: float) -> None:
    """A state dict of `size` bytes in float32 layers of 16 MB."""
    layers = max(1, round(size / 2**24))
    torch.manual_seed(0)
    block = torch.randn(2048, 2048)
    torch.save({f"layers.{index}.weight": block + index for index in range(layers)}, path)


def copy_and_hash(source: Path, target: Path) -> str:
    """What a careful copy costs: read, hash, write."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(2**20):
            digest.update(piece)
            writer.write(piece)
    return digest.hexdigest()


def load_and_save(source: Path, target: Path) -> None:
    """The usual way, in a process that has torch loaded already."""
    from safetensors.torch import save_file

    save_file(torch.load(source, map_location="cpu", weights_only=True), target)


def measure(folder: Path, size: float, repeats: int) -> dict[str, object]:
    """One row."""
    source = folder / "big.pt"
    make_checkpoint(source, size)
    contenders: dict[str, Callable[[Path], object]] = {
        "copy": lambda out: shutil.copyfile(source, out / "copy"),
        "copy_and_hash": lambda out: copy_and_hash(source, out / "copy"),
        "convert": lambda out: convert(source, out),
        "load_and_save": lambda out: load_and_save(source, out / "usual.safetensors"),
    }
    seconds = best(contenders, folder, repeats)
    small = []
    for index in range(10):
        small.append(folder / f"small{index}.pt")
        make_checkpoint(small[-1], 20e6)
    program = [Path(sys.executable).with_name("bringup"), "convert", *small, "-o"]
    ten: dict[str, Callable[[Path], object]] = {
        "convert_ten_of_20_mb": lambda out: convert_all(small, out),
        "command_ten_of_20_mb": lambda out: subprocess.run([*program, out], check=True, capture_output=True),
    }
    seconds |= best(ten, folder, repeats)
    return {
        "bytes": source.stat().st_size,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "convert_over_copy_and_hash": round(seconds["convert"] / seconds["copy_and_hash"], 2),
        "convert_over_load_and_save": round(seconds["convert"] / seconds["load_and_save"], 2),
    }


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder), options.gigabytes * 1e9, options.repeats)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[0]}
    stamp = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(sys.argv),
        "torch": torch.__version__,
    }
    line = json.dumps({**stamp, **machine, **row})
    print(line)
    with Path(__file__).with_suffix(".jsonl").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


if __name__ == "__main__":
    main()
