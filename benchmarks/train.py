"""Time and memory of a training step, and of an iteration end to end; rows go to `benchmarks/train.jsonl`.

    python benchmarks/train.py step --precision bf16            # synthetic crops that lie on the GPU
    python benchmarks/train.py step --precision fp32 --set train.attention=sdpa
    python benchmarks/train.py run --data DATA --precision bf16  # the whole iteration, cases from a folder

The configuration is the published preset: ViT-B/14, batch 8, three sequences, 2×224 and 8×112 crops, 4,096
prototypes. Times are medians of single iterations between CUDA events after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from prostate_ssl.batch import CropBatch
from prostate_ssl.config import load_config
from prostate_ssl.models.build import model_modalities
from prostate_ssl.training.gradients import build_gradients, step_stream, wants_graph
from prostate_ssl.training.networks import SelfDistillation, StepInputs
from prostate_ssl.training.optimizer import apply_settings, build_optimizer, clip_gradients, update_teacher
from prostate_ssl.training.parallelize import parallelize
from prostate_ssl.training.randomness import drop_path_scales
from prostate_ssl.training.schedules import StepSettings
from prostate_ssl.training.session import Session, attention_kernel, open_session, wants_compile

PEAK_TFLOPS = {"NVIDIA H200": {"fp32": 494.0, "bf16": 989.0}}


def synthetic_batch(cfg: DictConfig, device: torch.device, seed: int = 0) -> CropBatch:
    """Random crops with masks as published: blocks in half of the crops, one whole modality in each."""
    generator = torch.Generator().manual_seed(seed)
    cases, modalities = cfg.train.batch_size_per_gpu, len(model_modalities(cfg))
    big, small, local = cfg.crops.global_crops_size, cfg.crops.local_crops_size, cfg.crops.local_crops_number
    patches = (big // cfg.student.patch_size) ** 2
    masks = torch.zeros(2 * cases, modalities, patches, dtype=torch.bool)
    for crop in range(cases):
        share = 0.1 + 0.4 * (crop + 0.5) / cases
        masks[crop] = torch.rand(modalities, patches, generator=generator) < share
        masks[crop] &= masks[crop].cumsum(-1) <= int(patches * share)
    masks[torch.arange(2 * cases), torch.randint(modalities, (2 * cases,), generator=generator)] = True
    return CropBatch(
        torch.randn(2 * cases, modalities, big, big, generator=generator).to(device),
        torch.randn(local * cases, modalities, small, small, generator=generator).to(device),
        torch.ones(cases, modalities, dtype=torch.bool, device=device),
        masks.to(device),
        torch.arange(cases, device=device),
    )


def model_tflop(cfg: DictConfig, networks: SelfDistillation) -> float:
    """Floating-point operations of a step, 10¹²: of linear layers, attention and heads."""
    backbone = networks.student_backbone
    cases, modalities = cfg.train.batch_size_per_gpu, len(model_modalities(cfg))
    dim, depth = backbone.embed_dim, backbone.n_blocks
    per_token = 2 * sum(p.numel() for n, p in backbone.blocks.named_parameters() if p.ndim == 2)
    total = 0.0
    for crops, size, passes in (
        (2 * cases, cfg.crops.global_crops_size, 4),  # student forward and backward, teacher forward
        (cfg.crops.local_crops_number * cases, cfg.crops.local_crops_size, 3),
    ):
        tokens = 1 + modalities * (size // cfg.student.patch_size) ** 2
        total += passes * crops * (tokens * per_token + depth * 4 * tokens**2 * dim)
    head = 2 * sum(p.numel() for p in networks.student["dino_head"].parameters() if p.ndim == 2)
    masked = 5000
    total += head * (4 * (masked + 2 * cases) + 3 * cfg.crops.local_crops_number * cases)
    return total / 1e12


def time_steps(cfg: DictConfig, session: Session, warmup: int, count: int) -> dict[str, Any]:
    """Median milliseconds and peak GiB of steps on synthetic crops that lie on the device."""
    device = session.device
    torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    networks = SelfDistillation(cfg).to(device).train()
    parallelize(networks, cfg, session)
    replicas = networks.replicas
    optimizer = build_optimizer(networks.student, cfg, replicas)
    gradients, temperature = build_gradients(networks, cfg, session), torch.tensor(0.05, device=device)
    batches = [synthetic_batch(cfg, device, seed) for seed in range(3)]
    rates = [cfg.student.drop_path_rate] * networks.student_backbone.n_blocks
    times, loss = [], 0.0
    for index in range(warmup + count):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        batch = batches[index % 3]
        scales = [
            drop_path_scales(rates, crops, len(batch.case_index), slice(None), (0, index, crops))
            for crops in (2, cfg.crops.local_crops_number)
        ]
        sent = [None if s is None else s.pin_memory().to(device, non_blocking=True) for s in scales]
        begin.record()
        apply_settings(optimizer, StepSettings(1e-5, 1e-5, 0.04, 0.99, 0.04, False))
        losses = gradients(batch, StepInputs(temperature, *sent))
        clip_gradients(networks.student, 3.0, replicas)
        optimizer.step()
        if replicas is not None:
            replicas.spread()
        update_teacher(networks.student, networks.teacher, 0.992)
        end.record()
        if index >= warmup:
            times.append((begin, end))
        loss = losses["total_loss"]
    torch.cuda.synchronize()
    milliseconds = [a.elapsed_time(b) for a, b in times]
    median = statistics.median(milliseconds)
    tflop = model_tflop(cfg, networks)
    peak = PEAK_TFLOPS.get(torch.cuda.get_device_name(), {}).get(cfg.precision)
    return {
        "what": "step",
        "ms": round(median, 2),
        "ms_spread": [round(min(milliseconds), 2), round(max(milliseconds), 2)],
        "peak_gib": round((torch.cuda.max_memory_allocated() - sum(_size(b) for b in batches)) / 2**30, 2),
        "data_gib": round(sum(_size(b) for b in batches) / 2**30, 2),
        "model_tflop": round(tflop, 2),
        "mfu": round(tflop / (median / 1e3) / peak, 3) if peak else None,
        "loss": round(float(loss), 4),
    }


def _size(batch: CropBatch) -> int:
    return sum(getattr(batch, f).nbytes for f in batch.__dataclass_fields__)


def time_run(cfg: DictConfig, session: Session, warmup: int, count: int) -> dict[str, Any]:
    """Milliseconds of whole iterations, from the case files to the moved teacher, by the wall clock."""
    from prostate_ssl.training.trainer import no_collector_pauses, prepare, report, step

    on_gpu = session.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder, no_collector_pauses():
        run = prepare(cfg, session, Path(folder), resume=False)
        batches = run.data.batches(0)
        times, waited = [], []
        begin = time.perf_counter()
        for iteration in range(warmup + count):
            asked = time.perf_counter()
            batch = next(batches)
            waited.append(time.perf_counter() - asked)
            values = step(run, iteration, batch)
            run.watch.push(iteration, values, batch)
            report(run, None, run.watch.pop())
            now = time.perf_counter()
            times.append(now - begin)
            begin = now
            if iteration + 1 == warmup:
                if on_gpu:
                    torch.cuda.synchronize()
                started = time.perf_counter()
                begin = started
        if on_gpu:
            torch.cuda.synchronize()
        total = time.perf_counter() - started
        run.gradients.release()
    return {
        "what": "end to end",
        "ms": round(1e3 * total / count, 2),
        "ms_spread": [round(1e3 * min(times[warmup:]), 2), round(1e3 * max(times[warmup:]), 2)],
        "waited_ms": round(1e3 * statistics.mean(waited[warmup:]), 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
        "feed": run.data.feed.mode,
        "model_tflop": round(model_tflop(cfg, run.networks), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("step", "run"))
    parser.add_argument("--config", default="prostate_vitb14_mm-dino")
    parser.add_argument("--precision", help="default: the configuration's")
    parser.add_argument("--data", help="folder of cases, for `run`")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--warmup", type=int, default=15)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("train.jsonl"))
    options = parser.parse_args()
    overrides = [*([f"precision={options.precision}"] if options.precision else []), *options.set]
    cfg = load_config(options.config, overrides)
    if options.data:
        path = cfg.train.dataset_path.replace("<PATH_TO_PROSTATE_DATASET>", options.data)
        cfg.train.dataset_path = path.replace(":split_csv=split/train.csv", "")
    with open_session(cfg) as session, step_stream(cfg, session):
        compiled, kernel = wants_compile(cfg, session.device), attention_kernel(cfg, session.device)
        graph = wants_graph(cfg, session)
        measure = time_steps if options.what == "step" else time_run
        row = measure(cfg, session, options.warmup, options.count)
        row |= {
            "config": options.config,
            "arch": cfg.student.arch,
            "batch": cfg.train.batch_size_per_gpu,
            "modalities": len(model_modalities(cfg)),
            "precision": cfg.precision,
            "attention": kernel,
            "compiled": compiled,
            "graph": graph,
            "world_size": session.world_size,
            "command": " ".join(["python", "benchmarks/train.py", *sys.argv[1:]]),
            "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
            "torch": torch.__version__,
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        }
        if session.is_main:
            print(json.dumps(row))
            with options.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
