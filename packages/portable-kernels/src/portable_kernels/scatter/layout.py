"""One view of every scatter, segment and gather: (B, E, K), B outer, E the reduced dimension, K inner."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch


@dataclass(frozen=True)
class Layout:
    """`src` contiguous as (B, E, K), and the index expanded to that shape, its broadcast axes at stride 0."""

    src: torch.Tensor
    index: torch.Tensor
    dim: int
    shape: tuple[int, ...]

    @property
    def B(self) -> int:
        return self.src.shape[0]

    @property
    def E(self) -> int:
        return self.src.shape[1]

    @property
    def K(self) -> int:
        return self.src.shape[2]

    @property
    def shared(self) -> torch.Tensor | None:
        """The index as (E,), when all of B and K share it; else None."""
        stride_b, _, stride_k = self.index.stride()
        if (self.B == 1 or stride_b == 0) and (self.K == 1 or stride_k == 0):
            return self.index[0, :, 0]
        return None

    def result_shape(self, size: int) -> tuple[int, ...]:
        """The shape of a result with `size` entries along the reduced dimension."""
        return (*self.shape[: self.dim], size, *self.shape[self.dim + 1 :])


def positive_dim(dim: int, rank: int) -> int:
    """Return `dim` counted from the front. IndexError as torch's when it is out of range."""
    if not -rank <= dim < rank:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-rank}, {rank - 1}], but got {dim})"
        )
    return dim % rank


def broadcast_index(index: torch.Tensor, src: torch.Tensor, dim: int) -> torch.Tensor:
    """Return `index` expanded to `src`'s shape by torch_scatter's rule.

    A 1-D index stands along `dim`; dimensions that are missing at the end are appended; then it is expanded.
    RuntimeError where the shapes don't fit, before any kernel starts.
    """
    dim = positive_dim(dim, src.dim())
    if index.dim() == 1:
        index = index.reshape((1,) * dim + (-1,))
    while index.dim() < src.dim():
        index = index.unsqueeze(-1)
    return index.expand(src.shape)


def lay_out(src: torch.Tensor, index: torch.Tensor, dim: int) -> Layout:
    """Return the (B, E, K) view of `src` and of an index of the same shape. `dim` >= 0."""
    shape = tuple(src.shape)
    three = (prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :]))
    return Layout(src.contiguous().view(three), index.reshape(three), dim, shape)
