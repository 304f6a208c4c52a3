"""How long `bringup explain` takes for a build log of 100 MB on standard input.

    python benchmarks/explain.py [--megabytes 100] [--repeats 3]

Appends one row to `explain.jsonl`: wall-clock seconds of the whole command and of the search alone, the best
of the repeats. The log has one known line, its last.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from bringup.findings.error_texts import explain

LINE = b"[ 42%] Building CUDA object src/CMakeFiles/some.dir/kernel_number_123456.cu.o warning: unused\n"


def main() -> None:
    """Measure and append the row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    log = LINE * (options.megabytes * 1_000_000 // len(LINE)) + b"nvcc: command not found\n"
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "explain"]
    whole, search = [], []
    for _ in range(options.repeats):
        began = time.perf_counter()
        subprocess.run(command, input=log, stdout=subprocess.DEVNULL, check=True)
        whole.append(time.perf_counter() - began)
        began = time.perf_counter()
        assert [row.id for row in explain(log)] == ["nvcc-not-found"]
        search.append(time.perf_counter() - began)
    row = {
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/explain.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "megabytes": options.megabytes,
        "command_seconds": round(min(whole), 2),
        "search_seconds": round(min(search), 2),
    }
    with Path(__file__).with_suffix(".jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
