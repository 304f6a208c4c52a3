"""Several GPUs of one machine: images a second, and resuming. Rows go to `benchmarks/scale.jsonl`.

    python benchmarks/scale.py --data DATA --worlds 1 2 4          # weak scaling, batch 8 a GPU
    python benchmarks/scale.py --data DATA --worlds 1 2 --resume   # and exactness on two ranks

The same processes serve every number of ranks, so that nothing is compiled twice. A row is the whole
iteration of `benchmarks/train.py run`. `--resume` compares two uninterrupted runs of the preset `demo` on two
ranks with one that was stopped half-way and went on, and with one on a single rank.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from omegaconf import DictConfig
from train import time_run

from prostate_ssl.config import load_config
from prostate_ssl.config.dataset_string import with_options
from prostate_ssl.training.metrics import read_metrics
from prostate_ssl.training.session import open_session
from prostate_ssl.training.trainer import train


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def as_rank(rank: int, world: int, port: int) -> Iterator[None]:
    """The environment that torchrun would give."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    yield


def configure(options: argparse.Namespace, name: str, overrides: list[str]) -> DictConfig:
    cfg = load_config(name, overrides)
    cfg.train.dataset_path = with_options(cfg.train.dataset_path, root=options.data, split_csv="none")
    return cfg


def sharding(strategy: str) -> list[str]:
    return [
        f"compute_precision.{network}.{module}.sharding_strategy={strategy}"
        for network in ("student", "teacher")
        for module in ("backbone", "dino_head", "ibot_head")
    ]


def measure(options: argparse.Namespace, precision: str, strategy: str, world: int) -> dict[str, Any]:
    cfg = configure(options, options.config, [f"precision={precision}", *sharding(strategy), *options.set])
    with open_session(cfg) as session:
        row = time_run(cfg, session, options.warmup, options.count)
    images = world * cfg.train.batch_size_per_gpu / row["ms"] * 1e3
    return row | {
        "world_size": world,
        "precision": precision,
        "sharding": strategy,
        "batch": cfg.train.batch_size_per_gpu,
        "images_per_s": round(images, 2),
        "config": options.config,
    }


def losses_of(folder: Path) -> list[float]:
    return [record["total_loss"] for _, record in sorted(read_metrics(folder).items())]


def largest_difference(a: list[float], b: list[float]) -> float:
    assert len(a) == len(b), (len(a), len(b))
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def resume_on_two(
    options: argparse.Namespace, rank: int, ports: list[int], folder: Path
) -> dict[str, Any] | None:
    """Two uninterrupted runs, one interrupted, on two ranks; one on a single rank with the whole batch."""
    common = [
        *options.resume_set, "optim.epochs=5", "train.OFFICIAL_EPOCH_LENGTH=10", "train.log_every=1",
        "train.saveckp_iterations=25", "dino.koleo_global=true", "train.compile=false",
    ]  # fmt: skip

    def run(name: str, world: int, port: int, **changes: Any) -> None:
        if rank >= world:
            return
        cfg = configure(options, "demo", [*common, f"train.output_dir={folder / name}"])
        if options.resume_data:
            cfg.train.dataset_path = with_options(cfg.train.dataset_path, root=options.resume_data.absolute())
        cfg.train.batch_size_per_gpu = 4 // world
        cfg.train.deterministic = changes.get("deterministic", False)
        with as_rank(rank, world, port):
            train(cfg)

    run("first", 2, ports[0])
    run("second", 2, ports[1])
    run("stopped", 2, ports[2])
    if rank == 0:  # what a kill after the checkpoint of iteration 25 leaves
        for newer in (folder / "stopped").glob("model_*50.rank_0.pth"):
            newer.unlink()
    run("stopped", 2, ports[3])
    run("exact", 2, ports[4], deterministic=True)
    if rank == 0:
        for newer in (folder / "exact").glob("model_*50.rank_0.pth"):
            kept = losses_of(folder / "exact")
            newer.unlink()
    run("exact", 2, ports[5], deterministic=True)
    run("single", 1, ports[6])
    if rank:
        return None
    losses = {name: losses_of(folder / name) for name in ("first", "second", "stopped", "exact", "single")}
    return {
        "what": "resume on two ranks, 50 iterations of the preset demo, fp32",
        "two_uninterrupted_runs_differ_by": largest_difference(losses["first"], losses["second"]),
        "resumed_differs_by": largest_difference(losses["first"], losses["stopped"]),
        "deterministic_resumed_differs_by": largest_difference(kept, losses["exact"]),
        "one_rank_differs_by": largest_difference(losses["first"], losses["single"]),
    }


def worker(rank: int, options: argparse.Namespace, ports: list[int], folder: str) -> None:
    if options.resume:  # read when CUDA's libraries start, so before any run
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // max(options.worlds)))
    remaining = iter(ports)
    for precision in options.precisions:
        for strategy in options.sharding:
            for world in options.worlds:
                port = next(remaining)
                if rank >= world or (world == 1 and strategy != options.sharding[0]):
                    continue
                begun = time.perf_counter()
                with as_rank(rank, world, port):
                    row = measure(options, precision, strategy, world)
                if rank == 0:
                    write(options, row | {"seconds": round(time.perf_counter() - begun, 1)})
    if options.resume:
        row = resume_on_two(options, rank, list(remaining), Path(folder))
        if row:
            write(options, row)


def write(options: argparse.Namespace, row: dict[str, Any]) -> None:
    row |= {
        "command": " ".join(["python", "benchmarks/scale.py", *sys.argv[1:]]),
        "machine": f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
        if torch.cuda.is_available()
        else platform.machine() + " CPU",
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
    print(json.dumps(row), flush=True)
    with options.rows.open("a") as file:
        file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of cases")
    parser.add_argument("--config", default="prostate_vitb14_mm-dino")
    parser.add_argument("--worlds", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--precisions", nargs="*", default=["bf16", "fp32"])
    parser.add_argument("--sharding", nargs="*", default=["SHARD_GRAD_OP", "NO_SHARD"])
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--warmup", type=int, default=15)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--resume-data", type=Path, help="other cases for --resume")
    parser.add_argument("--resume-set", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("scale.jsonl"))
    options = parser.parse_args()
    options.data = options.data.absolute()
    jobs = len(options.precisions) * len(options.sharding) * len(options.worlds)
    ranks = max(*options.worlds, 2 if options.resume else 1)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (options, free_ports(jobs + 7), folder), nprocs=ranks)


if __name__ == "__main__":
    main()
