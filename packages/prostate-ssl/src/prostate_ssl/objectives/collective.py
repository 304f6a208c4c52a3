"""Sums over ranks that do nothing where there is one rank."""

from __future__ import annotations

import torch
import torch.distributed as dist


def world_size() -> int:
    """Number of ranks that share the batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum of `value` over all ranks, in place; no gradient flows through it."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def max_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The elementwise maximum over all ranks, in place; no gradient flows through it."""
    if world_size() > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value
