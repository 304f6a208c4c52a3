"""Kernels against the compiled originals, in one run, on the GPU that is here.

    python benchmarks/kernels.py --op scatter --originals FOLDER [--times 1 10] [--output
    benchmarks/kernels.jsonl]

FOLDER holds the compiled originals' packages (`torch_scatter/`, …); without it only ours is measured. Each
file of `kernels_ops/` yields the comparisons of one op family. One row a comparison, medians of 20 calls by
CUDA events, ours and the original's in turns after a warm-up of both:

- `ours_ms`, `original_ms`, `ratio`: the GPU's time. It is kept busy beforehand, so that all launches are
  queued;
- `ours_call_ms`, `original_call_ms`, `call_ratio`: the same from an idle GPU, the host's time included;
- `first_call_s`: ours, the very first one, with the compilation where the disk cache has nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from kernels_ops import Comparison

WARM_UP, CALLS = 5, 20


BUSY_CYCLES = 2_000_000  # about a millisecond: longer than any op takes to be launched


def event_milliseconds(call: Callable[[], Any], busy: bool) -> float:
    """Milliseconds between two events around one call, on a GPU that is busy or idle before it."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    if busy:
        torch.cuda._sleep(BUSY_CYCLES)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def medians(calls: list[Callable[[], Any]], repeats: int, busy: bool) -> list[float]:
    """Median milliseconds of each call; they take turns, so that clocks and caches favour none."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for row, call in zip(times, calls, strict=True):
            row.append(event_milliseconds(call, busy))
    return [statistics.median(row) for row in times]


def measure(comparison: Comparison, repeats: int) -> dict[str, Any]:
    """One row: first call, medians, ratios original / ours."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    comparison.ours()
    torch.cuda.synchronize()
    row: dict[str, Any] = {"op": comparison.op, "case": comparison.case}
    row["first_call_s"] = round(time.perf_counter() - begin, 4)
    calls = [comparison.ours] + ([comparison.original] if comparison.original else [])
    for call in calls:
        for _ in range(WARM_UP):
            call()
    for busy, label, ratio in ((True, "", "ratio"), (False, "_call", "call_ratio")):
        ours, *others = medians(calls, repeats, busy)
        row[f"ours{label}_ms"] = round(ours, 4)
        if others:
            row |= {f"original{label}_ms": round(others[0], 4), ratio: round(others[0] / ours, 2)}
    return row


def rows(comparisons: Iterable[Comparison], repeats: int) -> Iterable[dict[str, Any]]:
    """Measure one after the other; memory of one is given back before the next."""
    for comparison in comparisons:
        row = measure(comparison, repeats)
        del comparison
        torch.cuda.empty_cache()
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--op", required=True, help="a file of kernels_ops")
    parser.add_argument("--originals", type=Path, help="folder with the compiled originals' packages")
    parser.add_argument("--times", type=int, nargs="*", default=[1, 10], help="sizes, in the workload's own")
    parser.add_argument("--repeats", type=int, default=CALLS)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("kernels.jsonl"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/kernels.py measures kernels: it needs a GPU that torch can use.")
    if options.originals:
        sys.path.insert(0, str(options.originals))
    common = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": f"benchmarks/kernels.py --op {options.op}",
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }
    module = import_module(f"kernels_ops.{options.op}")
    with tempfile.TemporaryDirectory() as cold, options.output.open("a", encoding="utf-8") as file:
        import os

        os.environ.setdefault("PORTABLE_KERNELS_CACHE", cold)
        for times in options.times:
            for row in rows(module.comparisons(times), options.repeats):
                line = json.dumps(common | {"times": times} | row)
                print(line, flush=True)
                file.write(line + "\n")


if __name__ == "__main__":
    main()
