"""Does it learn, and do bf16 and fp32 learn the same? Rows go to `benchmarks/learn.jsonl`.

    python benchmarks/learn.py probe --config phantoms --precision bf16 --jobs 3 --features "mean patch token"
                                                       # AUC of linear probes on held-out phantoms
    python benchmarks/learn.py precision               # losses of 500 iterations, bf16 against fp32

`probe`: for each seed, phantom cases of their own (64 for pre-training and for fitting the probe, the others
held out), 1,000 iterations, then logistic regression on the teacher's features, on those of the same network
untrained, and on intensity histograms. `precision`: one seed, one data set, two trainings; means of 50
iterations compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from prostate_ssl.config import load_config
from prostate_ssl.config.dataset_string import with_options
from prostate_ssl.data import make_dataset
from prostate_ssl.data.phantom import PhantomSettings, write_phantoms
from prostate_ssl.evaluation.backbone import load_backbone
from prostate_ssl.evaluation.run import evaluate_split
from prostate_ssl.files import write_atomically
from prostate_ssl.training.metrics import read_metrics
from prostate_ssl.training.trainer import train

PRECISIONS = ("fp32", "bf16")
PARTS = ("CLS token", "mean patch token")
FEATURES = ("trained", "untrained", "intensity histograms")


@contextmanager
def phantoms(options: argparse.Namespace, seed: int, held_out: int) -> Iterator[Path]:
    """A folder of phantom cases with `train.csv` and `test.csv`; a temporary one if none is named."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.data or temporary) / f"seed{seed}"
        write_phantoms(root, options.cases + held_out, PhantomSettings(seed=seed), options.workers)
        rows = (root / "labels.csv").read_text().splitlines()
        for name, part in (("train", rows[1 : 1 + options.cases]), ("test", rows[1 + options.cases :])):
            write_atomically(root / f"{name}.csv", ("\n".join([rows[0], *part]) + "\n").encode())
        yield root


def pretrain(options: argparse.Namespace, data: Path, out: Path, seed: int, precision: str) -> float:
    """Train as configured on the cases of `train.csv`. Returns seconds."""
    epoch = min(50, options.iterations)
    overrides = [
        f"train.seed={seed}",
        f"train.output_dir={out}",
        f"train.OFFICIAL_EPOCH_LENGTH={epoch}",
        f"train.saveckp_iterations={options.iterations}",
        "train.log_every=1",
        f"optim.epochs={options.iterations // epoch}",
        f"precision={precision}",
        *options.set,
    ]
    cfg = load_config(options.config, overrides)
    cfg.train.dataset_path = with_options(cfg.train.dataset_path, root=data, split_csv=data / "train.csv")
    begun = time.perf_counter()
    train(cfg, resume=False)
    return time.perf_counter() - begun


def probe(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One seed: AUC on held-out cases of the trained and the untrained network, and of histograms."""
    with (
        phantoms(options, seed, options.held_out) as data,
        tempfile.TemporaryDirectory() as folder,
    ):
        out = Path(folder)
        seconds = pretrain(options, data, out, seed, options.precision)
        backbone = load_backbone(out)
        text = f"ProstateSupervised:split=TEST:root={data}:mri_sequences=" + ",".join(
            backbone.model.mri_sequences
        )
        fit, judge = (make_dataset(dataset_str=f"{text}:split_csv={name}.csv") for name in ("train", "test"))
        results = evaluate_split(backbone, fit, judge, ["auc"], out)["results"]
        losses = read_losses(out)
        times = {name: read_values(out, name) for name in ("iteration_seconds", "data_seconds")}
    probes = {
        name: {kind: round(found["metrics"]["auc"], 4) for kind, found in results[name].items()}
        for name in FEATURES
    }
    auc = {name: found.get(f"linear, {options.features}", found["linear"]) for name, found in probes.items()}
    return {
        "what": "probe",
        "seed": seed,
        "features": options.features,
        "auc": auc,
        "over_untrained": round(auc["trained"] - auc["untrained"], 4),
        "over_histograms": round(auc["trained"] - auc["intensity histograms"], 4),
        "probes": probes,
        "loss_first_last_50": [round(statistics.mean(part), 3) for part in (losses[:50], losses[-50:])],
        "cases": {"pretrain": options.cases, "held_out": options.held_out},
        "iterations": options.iterations,
        "precision": options.precision,
        "seconds": round(seconds, 1),
        "ms_of_an_iteration": {
            name.removesuffix("_seconds"): round(1e3 * statistics.median(values), 1)
            for name, values in times.items()
        },
    }


def read_values(run: Path, name: str) -> list[float]:
    """What was recorded under a name, by iteration; values that come with a checkpoint have no time."""
    return [record[name] for _, record in sorted(read_metrics(run).items()) if name in record]


def read_losses(run: Path) -> list[float]:
    """`total_loss` of every iteration, in order."""
    return read_values(run, "total_loss")


def losses_in(options: argparse.Namespace, data: Path, precision: str) -> list[float]:
    """`total_loss` of every iteration of a training in one precision."""
    with tempfile.TemporaryDirectory() as folder:
        pretrain(options, data, Path(folder), 0, precision)
        return read_losses(Path(folder))


def compare_precisions(options: argparse.Namespace) -> dict[str, Any]:
    """The largest relative difference of 50-iteration means of `total_loss`, bf16 against fp32."""
    with (
        phantoms(options, 0, 0) as data,
        ProcessPoolExecutor(min(2, options.jobs), mp_context=get_context("spawn")) as pool,
    ):
        runs = dict(zip(PRECISIONS, pool.map(partial(losses_in, options, data), PRECISIONS), strict=True))
    means = {
        name: [statistics.mean(losses[i : i + 50]) for i in range(0, len(losses), 50)]
        for name, losses in runs.items()
    }
    pairs = list(zip(means["bf16"], means["fp32"], strict=True))
    return {
        "what": "bf16 against fp32",
        "largest_relative_difference": round(max(abs(a / b - 1) for a, b in pairs), 5),
        "means_of_50": {name: [round(v, 4) for v in values] for name, values in means.items()},
        "iterations": options.iterations,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("probe", "precision"))
    parser.add_argument("--config", default="demo")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="seeds, or precisions, at once")
    parser.add_argument(
        "--features",
        default="both",
        choices=("both", *PARTS),
        help="what the linear probe reads; `both`: the two tokens side by side",
    )
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=128)
    parser.add_argument("--iterations", type=int, help="default: 1000 for probe, 500 for precision")
    parser.add_argument("--precision", default="fp32", help="of `probe`")
    parser.add_argument("--data", help="where the phantoms are kept for a further call")
    parser.add_argument("--workers", type=int, default=1, help="processes that make phantoms")
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("learn.jsonl"))
    options = parser.parse_args()
    options.iterations = options.iterations or (1000 if options.what == "probe" else 500)
    common = {
        "config": options.config,
        "command": " ".join(["python", "benchmarks/learn.py", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + " CPU",
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
    measured = []
    if options.what == "precision":
        measured.append(compare_precisions(options))
    else:
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            measured += pool.map(partial(probe, options), options.seeds)
        summary = {
            key: round(statistics.mean(row[key] for row in measured), 4)
            for key in ("over_untrained", "over_histograms")
        }
        measured.append({"what": "probe, mean of the seeds", "seeds": options.seeds, **summary})
    with options.rows.open("a") as file:
        for row in measured:
            print(json.dumps(row | common))
            file.write(json.dumps(row | common) + "\n")


if __name__ == "__main__":
    main()
