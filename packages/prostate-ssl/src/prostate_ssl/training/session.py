"""The process group, the device and the numeric settings of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from prostate_ssl.errors import ProstateError


@dataclass(frozen=True)
class Session:
    """Where this process runs.

    Attributes:
        device: what it computes on.
        rank, world_size: its number, and how many there are.
    """

    device: torch.device
    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def is_main_rank() -> bool:
    """Whether this process is rank 0, before any session is open."""
    return int(os.environ.get("RANK", 0)) == 0


@contextmanager
def open_session(cfg: DictConfig) -> Iterator[Session]:
    """Join the ranks that torchrun or Slurm started (one rank otherwise), set precision, and leave again.

    Raises:
        ProstateError: more ranks than GPUs on this node.
    """
    world_size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise ProstateError(
                f"Rank {local_rank} of this node has no GPU: {torch.cuda.device_count()} are visible. "
                "Start as many processes as there are GPUs (torchrun --nproc_per_node)."
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    _numeric_settings(cfg)
    joined = world_size > 1 and not dist.is_initialized()
    if joined:
        bind = device if device.type == "cuda" else None
        dist.init_process_group("nccl" if bind else "gloo", device_id=bind)
    # After an error there is nothing to leave in order: other ranks may wait in a collective that this one
    # never joins. This process ends, and the launcher ends the others.
    yield Session(device, rank, world_size)
    if joined:
        dist.destroy_process_group()


def _numeric_settings(cfg: DictConfig) -> None:
    # TF32 products in fp32, as published.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    if cfg.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def wants_compile(cfg: DictConfig, device: torch.device) -> bool:
    """Whether blocks are compiled; `auto`: on a GPU that Triton knows, with the C compiler that it needs."""
    setting = str(cfg.train.compile).lower()
    if setting != "auto":
        return setting == "true"
    compiler = any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))
    return device.type == "cuda" and compiler and torch.cuda.get_device_capability(device) >= (7, 0)


def attention_kernel(cfg: DictConfig, device: torch.device) -> str:
    """`auto`: in fp32 on a GPU with fused half-precision kernels, `tf32`; else PyTorch's fused attention."""
    if cfg.train.attention == "flex" and device.type == "cpu":
        raise ProstateError("train.attention=flex has no backward pass on the CPU; use sdpa or auto.", 2)
    if cfg.train.attention != "auto":
        return str(cfg.train.attention)
    fused = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "tf32" if cfg.precision == "fp32" and fused else "sdpa"
