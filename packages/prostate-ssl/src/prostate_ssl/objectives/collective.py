"""Exchanges between ranks that do nothing where there is one rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def world_size() -> int:
    """Number of ranks that share the batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum of `value` over all ranks, in place; no gradient flows through it."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def of_all_ranks(value: T) -> list[T]:
    """What every rank has, in the order of the ranks; plain values, not tensors."""
    values = [value] * world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def mean_over_ranks(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean over all ranks of scalars that have the same names everywhere, in one exchange."""
    if world_size() == 1:
        return values
    total = sum_over_ranks(torch.stack([value.float() for value in values.values()]))
    return dict(zip(values, (total / world_size()).unbind(), strict=True))


@dataclass(frozen=True)
class PendingSum:
    """A sum over all ranks that is on its way.

    Attributes:
        value: this rank's summand; the sum once `wait` has returned.
        work: the exchange, or None where there is one rank.
    """

    value: torch.Tensor
    work: dist.Work | None

    def wait(self) -> torch.Tensor:
        """The sum. On a GPU it is the current stream that waits, not this thread."""
        if self.work is not None:
            self.work.wait()
        return self.value


def start_sum_over_ranks(value: torch.Tensor) -> PendingSum:
    """Begin to add `value` over all ranks, in place; nobody waits for the slowest rank before `wait`."""
    return PendingSum(value, dist.all_reduce(value, async_op=True) if world_size() > 1 else None)


def max_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The elementwise maximum over all ranks, in place; no gradient flows through it."""
    if world_size() > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value
