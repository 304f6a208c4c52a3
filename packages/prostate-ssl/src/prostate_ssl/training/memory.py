"""How much memory a configuration will take, before it takes it: a GPU's, or the machine's."""

from __future__ import annotations

from functools import cache

import torch
from omegaconf import DictConfig

from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.models.build import build_backbone, model_modalities, vit_shape
from prostate_ssl.models.head import DINOHead

GIB = 2**30
# Bytes that a block keeps per token and channel for its backward pass. Fitted to measured peaks (see
# benchmarks/train.jsonl); the tests compare the prediction with those rows.
_KEPT_BYTES = {"fp32": 70.0, "bf16": 40.0}
_STATE_BYTES = 20  # weight, gradient, two AdamW moments, teacher: fp32 each
# What several ranks keep whole beside their shards: the gradients of the local crops, which wait for those of
# the global ones; with SHARD_GRAD_OP the gathered weights of student and teacher too. Replicas: weights,
# teacher, and gradients as they come and as they are sent.
_WHOLE_BYTES = {"FULL_SHARD": 4, "SHARD_GRAD_OP": 12, "NO_SHARD": 16}
# What they share out: all of the state; replicas the moments.
_SHARED_BYTES = {"FULL_SHARD": _STATE_BYTES, "SHARD_GRAD_OP": _STATE_BYTES, "NO_SHARD": 8}
_RESERVE = 0.06  # of the card: driver, CUDA context, fragmentation
# On a CPU, steps of seven configurations took 1.14 to 2.6 times the prediction (demo preset with other sizes,
# 2 cores, 2026-11-22): less than the first share of it is never enough, the second multiple mostly is.
_SURELY, _MOSTLY = 0.8, 2.0
PRESETS = ("gpu-16gb", "gpu-24gb", "gpu-32gb", "gpu-80gb")


@cache
def _parameters(arch: str, ffn: str, prototypes: int, hidden: int, bottleneck: int, layers: int) -> int:
    cfg = load_config(overrides=[f"student.arch={arch}", f"student.ffn_layer={ffn}"])
    with torch.device("meta"):
        backbone = build_backbone(cfg)
        head = DINOHead(backbone.embed_dim, prototypes, layers, hidden, bottleneck)
    return sum(p.numel() for module in (backbone, head) for p in module.parameters())


def predicted_peak(cfg: DictConfig, world_size: int = 1) -> float:
    """Peak memory of a training step in GiB, resident data not counted.

    Weights, gradients, moments and teacher are exact; activations are proportional to tokens × depth × width,
    with a factor measured per precision. Local and global crops go backward one after the other, so the
    larger of them counts.
    """
    dino = cfg.dino
    parameters = _parameters(
        cfg.student.arch,
        cfg.student.ffn_layer,
        dino.head_n_prototypes,
        dino.head_hidden_dim,
        dino.head_bottleneck_dim,
        dino.head_nlayers,
    )
    shape = vit_shape(cfg.student.arch)
    cases, modalities, patch = (
        cfg.train.batch_size_per_gpu,
        len(model_modalities(cfg)),
        cfg.student.patch_size,
    )
    tokens = max(
        crops * (1 + modalities * (size // patch) ** 2)
        for crops, size in (
            (2, cfg.crops.global_crops_size),
            (cfg.crops.local_crops_number, cfg.crops.local_crops_size),
        )
    )
    kept = _KEPT_BYTES[cfg.precision]
    layers = 1 + 4 * shape.depth / kept if cfg.train.activation_checkpointing else shape.depth
    activations = cases * tokens * shape.embed_dim * layers * kept
    strategy = cfg.compute_precision.student.backbone.sharding_strategy
    state: float = _STATE_BYTES
    if world_size > 1:
        state = _SHARED_BYTES[strategy] / world_size + _WHOLE_BYTES[strategy]
    return (state * parameters + activations) / GIB


def check_memory(cfg: DictConfig, total_bytes: int, world_size: int = 1) -> None:
    """Refuse a configuration that the card cannot hold, before the first step.

    Raises:
        ProstateError: with the prediction and what fits.
    """
    need, have = predicted_peak(cfg, world_size), total_bytes / GIB
    if need <= have * (1 - _RESERVE):
        return
    raise ProstateError(
        f"This configuration needs about {need:.1f} GiB of GPU memory, and the card has {have:.1f}. "
        + what_fits(cfg, total_bytes, world_size)
    )


def check_host_memory(cfg: DictConfig, available_bytes: int | None, world_size: int = 1) -> None:
    """Refuse a configuration that a training on the CPU cannot hold; what might fit is let through.

    Args:
        cfg: complete configuration.
        available_bytes: see `prostate_ssl.host.host_memory`; None: nothing is refused.
        world_size: ranks that share the weights out.

    Raises:
        ProstateError: with the least that it needs and what fits.
    """
    need = predicted_peak(cfg, world_size) * _SURELY
    if available_bytes is None or need * GIB <= available_bytes:
        return
    raise ProstateError(
        f"This configuration needs at least {need:.1f} GiB of memory for a training on the CPU, and "
        f"{available_bytes / GIB:.1f} are available here. "
        + what_fits(cfg, int(available_bytes / _MOSTLY), world_size, ("demo",))
    )


def what_fits(
    cfg: DictConfig, total_bytes: int, world_size: int = 1, presets: tuple[str, ...] = PRESETS
) -> str:
    """The gentlest changes that fit a card of this size, each with its predicted memory.

    Args:
        cfg: what does not fit.
        total_bytes: memory of the card.
        world_size: ranks that share the weights out.
        presets: what may be named instead, from small to large.
    """
    room = total_bytes / GIB * (1 - _RESERVE)
    options: list[tuple[str, object]] = [("train.batch_size_per_gpu", b) for b in _smaller(cfg)]
    options += [("train.activation_checkpointing", True)]
    options += [("crops.global_crops_size", side * cfg.student.patch_size) for side in (14, 13)]
    options += [("precision", "bf16"), ("student.arch", "medical_vit_small")]
    fitting = []
    for name, value in options:
        changed = cfg.copy()
        section, _, key = name.rpartition(".")
        (changed[section] if section else changed)[key] = value
        need = predicted_peak(changed, world_size)
        if need <= room:
            fitting.append(f"{name}={str(value).lower()} ({need:.1f} GiB)")
    smaller = [p for p in presets if predicted_peak(load_config(p), world_size) <= room]
    if fitting:
        advice = f"What fits: {', '.join(fitting[:4])}"
        return advice + (f"; or the preset {smaller[-1]}." if smaller else ".")
    return "No single change makes it fit" + (f"; the preset {smaller[-1]} does." if smaller else ".")


def _smaller(cfg: DictConfig) -> list[int]:
    batch: int = cfg.train.batch_size_per_gpu
    return [b for b in (batch * 3 // 4, batch // 2, batch // 4) if b >= 1][:3]


def out_of_memory(cfg: DictConfig, device: torch.device, world_size: int) -> ProstateError:
    """The error for a card that ran full in the middle of a run."""
    total = torch.cuda.get_device_properties(device).total_memory
    peak = torch.cuda.max_memory_allocated(device) / GIB
    return ProstateError(
        f"CUDA out of memory: {peak:.1f} of {total / GIB:.1f} GiB were in use; others may share the card. "
        + what_fits(cfg, total, world_size)
    )
