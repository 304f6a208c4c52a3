"""How fast prostate-ssl feeds a training step. Appends rows to benchmarks/data.jsonl.

    python benchmarks/data.py [--device cuda|cpu|linear] [--cases 48] [--size 384x24] [--work DIR]

Measured, all with the published settings (batch 8, 2×224 and 8×112 crops, three modalities, the mask guiding
the crops, random convolution, block masks):
  augment      milliseconds of device time a batch: gathering or copying slices, crops, intensities, masks
  feed         batches a second of the feed alone, slices resident on the GPU and from the cache
  wait         share of the time that a training step of 55 ms waits for data
  linear       processor time a case for up to 10,000 cases
  items        items a second and processor seconds an item on the CPU; workers of so many threads each
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from prostate_ssl.data import AugmentationSettings, build_feed, make_dataset
from prostate_ssl.data.cache import CaseCache
from prostate_ssl.data.feed import Feed
from prostate_ssl.data.order import SampleOrder
from prostate_ssl.data.phantom import PhantomSettings, write_phantoms

BATCH = 8
STEP_SECONDS = 0.055


def device_milliseconds(feed: Feed, repeats: int = 100) -> float:
    """Median device time of one batch, by CUDA events around single replays of different batches."""
    stage = feed._stage
    orders = [feed.order(step) for step in range(16)]
    times = []
    for turn in range(repeats + 10):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(stage._stream)
        stage.start(orders[turn % len(orders)])
        end.record(stage._stream)
        end.synchronize()
        if turn >= 10:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def batches_per_second(feed: Feed, seconds: float) -> float:
    """Batches a second with nobody using them."""
    stream = feed.batches()
    for _ in range(10):
        next(stream)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        next(stream)
        count += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / (time.perf_counter() - begun)


def waiting_share(feed: Feed, steps: int = 100) -> float:
    """Share of the time that a step of 55 ms of GPU work, waited for like a real one, waits for data."""
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    torch.mm(matrix, matrix)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(20):
        torch.mm(matrix, matrix)
    end.record()
    end.synchronize()
    products = max(1, round(STEP_SECONDS * 1000 / (begin.elapsed_time(end) / 20)))
    stream = feed.batches()
    for _ in range(5):
        next(stream)
    feed.waited = 0.0
    begun = time.perf_counter()
    for _ in range(steps):
        next(stream)
        for _ in range(products):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize()
    return feed.waited / (time.perf_counter() - begun)


def gpu_rows(work: Path, dataset_str: str, cache: Path, workers: int) -> dict[str, float]:
    dataset = make_dataset(dataset_str=dataset_str)
    settings = AugmentationSettings()
    rows: dict[str, float] = {}
    for name, resident, folder in (("resident", True, None), ("cache", False, cache)):
        begun = time.perf_counter()
        feed = build_feed(
            dataset, settings, BATCH, 0, "cuda", num_workers=workers, cache=folder, resident=resident
        )
        rows[f"{name}_start_s"] = round(time.perf_counter() - begun, 2)
        rows[f"{name}_batches_per_s"] = round(batches_per_second(feed, 5.0), 1)
        rows[f"{name}_device_ms"] = round(device_milliseconds(feed), 3)
        rows[f"{name}_wait_share"] = round(waiting_share(feed), 4)
    rows["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return rows


def cpu_rows(dataset_str: str, cache: Path, workers: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)  # of each worker
    dataset = make_dataset(dataset_str=dataset_str)
    feed = build_feed(dataset, AugmentationSettings(), BATCH, 0, "cpu", num_workers=workers, cache=cache)
    spent = time.process_time()
    rate = batches_per_second(feed, 20.0)
    # Processor seconds an item hold on a machine that others use, too; the published loader takes 0.42.
    per_item = (time.process_time() - spent) / (BATCH * (rate * 20.0 + 10))
    return {
        "cpu_items_per_s": round(BATCH * rate, 1),
        "cpu_s_per_item": round(per_item, 4),
        "threads": threads,
    }


def linear_rows(data: Path, cache: Path, work: Path) -> dict[str, dict[str, float]]:
    """Processor time a case for more and more cases: caching, opening the data set, ordering an epoch.

    The larger data sets are links to the cases of the smallest.
    """
    found: dict[str, dict[str, float]] = {"cache_ms_a_case": {}, "open_ms_a_case": {}, "order_us_a_case": {}}
    dataset = make_dataset(dataset_str=f"ProstateSSL:split=TRAIN:root={data}")
    for count in (len(dataset) // 4, len(dataset) // 2, len(dataset)):
        shutil.rmtree(cache, ignore_errors=True)
        store, begun = CaseCache(cache, dataset.modalities), time.process_time()
        for case in dataset.cases[:count]:
            store.ensure(case)
        found["cache_ms_a_case"][str(count)] = round(1e3 * (time.process_time() - begun) / count, 1)
    for count in (1250, 2500, 5000, 10000):
        with tempfile.TemporaryDirectory(dir=work) as root:
            for number in range(count):
                folder = dataset.cases[number % len(dataset)].folder
                (Path(root) / f"case_{number:05d}").symlink_to(folder.absolute())
            begun = time.process_time()
            many = make_dataset(dataset_str=f"ProstateSSL:split=TRAIN:root={root}")
            found["open_ms_a_case"][str(count)] = round(1e3 * (time.process_time() - begun) / count, 3)
        order, begun = SampleOrder(len(many), 0), time.process_time()
        for slot in range(count):
            order.at(slot)
        found["order_us_a_case"][str(count)] = round(1e6 * (time.process_time() - begun) / count, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cases", type=int, default=48)
    parser.add_argument("--size", default="384x24")
    parser.add_argument("--work", type=Path, default=Path("/tmp/prostate-ssl-benchmark"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    side, slices = (int(part) for part in options.size.split("x"))
    data, cache = options.work / f"phantom-{options.size}", options.work / f"cache-{options.size}"
    write_phantoms(data, options.cases, PhantomSettings(size=side, slices=slices), options.workers)
    dataset_str = f"ProstateSSL:split=TRAIN:root={data}:random_axes=True:random_slices=True"
    dataset = make_dataset(dataset_str=dataset_str)
    store = CaseCache(cache, dataset.modalities)
    for case in dataset.cases:
        store.ensure(case)
    on_gpu = options.device.startswith("cuda")
    if options.device == "linear":
        measured: dict[str, Any] = linear_rows(data, cache, options.work)
    elif on_gpu:
        measured = gpu_rows(options.work, dataset_str, cache, options.workers)
    else:
        measured = cpu_rows(dataset_str, cache, options.workers, options.threads)
    row = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%MZ"),
        "command": " ".join(["python", "benchmarks/data.py", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "torch": torch.__version__,
        "workers": options.workers,
        "note": options.note,
        **measured,
    }
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
