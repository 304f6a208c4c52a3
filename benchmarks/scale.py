"""Several GPUs of one machine: images a second, and exactness. Rows go to `benchmarks/scale.jsonl`.

    python benchmarks/scale.py --data DATA --worlds 4 2 1    # weak scaling, batch 8 a GPU
    python benchmarks/scale.py --data DATA --worlds --exact  # several ranks train and resume as one

A row of scaling is the whole iteration of `benchmarks/train.py run`. The same processes serve every number
of ranks, the largest first, so that nothing is compiled twice and all compile at once. For one rank, every
GPU trains alone, all at the same time, and gets a row: the GPUs of a machine differ by up to three per cent,
and what several should reach is their sum.

`--exact` trains the preset `demo` on one rank and on several in every sharding, and resumes what several
ranks saved on as many, on two and on one; NVIDIA_TF32_OVERRIDE=0 leaves only the order of sums to differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
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
from prostate_ssl.training.checkpoint import checkpoint_name, read_checkpoint
from prostate_ssl.training.gradients import step_stream
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
    """The environment that torchrun would give to a process that sees one GPU."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": "0",
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
    with open_session(cfg) as session, step_stream(cfg, session):
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


def relative_differences(a: Path, b: Path, iteration: int) -> dict[str, float]:
    """‖a − b‖ / ‖b‖ of what two runs saved after an iteration, by kind of tensor."""
    one, two = (read_checkpoint(folder / checkpoint_name(iteration)) for folder in (a, b))

    def flat(content: dict[str, Any], kind: str) -> torch.Tensor:
        if kind == "gradient means":
            parts = [state["exp_avg"] for state in content["optimizer"].values()]
        else:
            parts = [t for n, t in content["model"].items() if n.startswith(kind) or n.endswith(kind)]
        return torch.cat([part.flatten().double() for part in parts])

    kinds = ("gradient means", "center", "student", "teacher")
    pairs = {kind: (flat(one, kind), flat(two, kind)) for kind in kinds}
    return {kind: float(((x - y).norm() / y.norm()).item()) for kind, (x, y) in pairs.items()}


class Exactness:
    """Trainings of the preset `demo` with one global batch, on any number of ranks."""

    def __init__(self, options: argparse.Namespace, rank: int, ports: Iterator[int], folder: Path) -> None:
        self.options, self.rank, self.ports, self.folder = options, rank, ports, folder
        self.ranks = options.exact
        self.half = options.exact_iterations // 2

    def run(self, name: str, world: int, strategy: str = "SHARD_GRAD_OP", *more: str) -> Path:
        port, out = next(self.ports), self.folder / name
        if self.rank >= world:
            return out
        overrides = [
            f"train.batch_size_per_gpu={2 * self.ranks // world}", f"optim.epochs={2 * self.half}",
            "optim.base_lr=3.5e-4",  # the published one; at the preset's rounding grows as large as the loss
            "train.OFFICIAL_EPOCH_LENGTH=1", "train.log_every=1", f"train.saveckp_iterations={self.half}",
            "train.centering=centering", "dino.koleo_global=true", "train.compile=false",
            "train.attention=sdpa", f"train.output_dir={out}", *sharding(strategy), *more,
        ]  # fmt: skip
        cfg = configure(self.options, "demo", overrides)
        with as_rank(self.rank, world, port):
            train(cfg)
        return out

    def resumed(self, source: Path, name: str, world: int, strategy: str, *more: str) -> Path:
        """What a kill half-way leaves of `source`, trained to the end on `world` ranks."""
        copy = self.folder / name
        if self.rank == 0:
            shutil.copytree(source, copy)
            (copy / checkpoint_name(2 * self.half)).unlink()
            (self.folder / f"{name}.copied").touch()
        while not (self.folder / f"{name}.copied").exists():
            time.sleep(0.02)
        return self.run(name, world, strategy, *more)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All trainings; rows come on rank 0 (elsewhere they are empty)."""
        one, again = self.run("one", 1), self.run("again", 1)
        yield self.row("two uninterrupted runs, one rank", again, one)
        for strategy in ("NO_SHARD", "FULL_SHARD", "SHARD_GRAD_OP"):
            many = self.run(strategy, self.ranks, strategy)
            yield self.row(f"{self.ranks} ranks, {strategy}, against one", many, one)
        for strategy, worlds in (("NO_SHARD", {self.ranks, 2}), ("SHARD_GRAD_OP", {self.ranks, 2, 1})):
            for world in sorted(worlds, reverse=True):
                on = self.resumed(self.folder / strategy, f"{strategy}-on{world}", world, strategy)
                what = f"saved on {self.ranks} ranks, resumed on {world}, {strategy}"
                yield self.row(what, on, self.folder / strategy)
        exact = self.run("exact", self.ranks, "SHARD_GRAD_OP", "train.deterministic=true")
        on = self.resumed(exact, "exact-on", self.ranks, "SHARD_GRAD_OP", "train.deterministic=true")
        yield self.row(f"deterministic, saved and resumed on {self.ranks}", on, exact)

    def row(self, what: str, run: Path, reference: Path) -> dict[str, Any]:
        if self.rank:
            return {}
        return {
            "what": what,
            "losses_differ_by": largest_difference(losses_of(run), losses_of(reference)),
            "iterations": 2 * self.half,
            "relative": relative_differences(run, reference, 2 * self.half),
        }


def worker(rank: int, options: argparse.Namespace, ports: list[int], folder: str) -> None:
    # Read when CUDA starts: before anything asks for it. With one visible GPU all ranks share compiled code.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[rank] if rank < len(visible) and visible[0] else str(rank)
    if options.exact:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks_of(options)))
    begun, remaining = time.perf_counter(), iter(ports)
    for strategy in options.sharding:
        for precision in options.precisions:
            for world in options.worlds:
                port = next(remaining)
                alone = world == 1
                if (rank >= world and not alone) or (alone and strategy != options.sharding[0]):
                    continue
                since = time.perf_counter()
                if since - begun > options.stop_after:
                    return
                with as_rank(0 if alone else rank, world, port):
                    row = measure(options, precision, strategy, world)
                if rank == 0 or alone:
                    seconds = round(time.perf_counter() - since, 1)
                    write(options, row | {"gpu": rank, "seconds": seconds})
    if options.exact:
        for row in Exactness(options, rank, remaining, Path(folder)).rows():
            if row:
                write(options, row | {"seconds": round(time.perf_counter() - begun, 1)})


def ranks_of(options: argparse.Namespace) -> int:
    return max(*options.worlds, options.exact, 1)


def write(options: argparse.Namespace, row: dict[str, Any]) -> None:
    row |= {
        "command": " ".join(["python", "benchmarks/scale.py", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + " CPU",
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
    parser.add_argument("--worlds", nargs="*", type=int, default=[4, 2, 1])
    parser.add_argument("--precisions", nargs="*", default=["bf16", "fp32"])
    parser.add_argument("--sharding", nargs="*", default=["NO_SHARD", "SHARD_GRAD_OP"])
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--warmup", type=int, default=15)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds: begin no row later")
    parser.add_argument("--exact", type=int, nargs="?", const=4, default=0, metavar="RANKS")
    parser.add_argument("--exact-iterations", type=int, default=50)
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("scale.jsonl"))
    options = parser.parse_args()
    options.data = options.data.absolute()
    jobs = len(options.precisions) * len(options.sharding) * len(options.worlds)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (options, free_ports(jobs + 16), folder), nprocs=ranks_of(options))


if __name__ == "__main__":
    main()
