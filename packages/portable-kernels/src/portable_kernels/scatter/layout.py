"""One view of every scatter, segment and gather.

(B, E, K), B outer, E along the reduced dimension, K inner.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import prod

import torch


class Start(IntEnum):
    """What a minimum or maximum must beat: the kernels' `enum Start`."""

    ELEMENT = 0  # the element type's finite extreme: scatter, segment_coo
    ACCUMULATOR = 1  # that of the type it is computed in: segment_csr
    INFINITE = 2  # any number may win: where `out` is given, and compared afterwards


@dataclass(frozen=True)
class Layout:
    """`src` contiguous as (B, E, K), and the index expanded to that shape, its broadcast axes at stride 0."""

    src: torch.Tensor
    index: torch.Tensor

    @property
    def shared(self) -> torch.Tensor | None:
        """The index as (E,), when all of B and K share it; else None."""
        B, _, K = self.index.shape
        stride_b, _, stride_k = self.index.stride()
        if (B == 1 or stride_b == 0) and (K == 1 or stride_k == 0):
            return self.index[0, :, 0]
        return None


def as_three(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the (B, E, K) view of a tensor, or a copy where its strides allow none."""
    shape = tensor.shape
    return tensor.reshape(prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :]))


def lay_out(src: torch.Tensor, index: torch.Tensor, dim: int) -> Layout:
    """Return the (B, E, K) view of `src` and of an index that broadcasts to its shape. `dim` >= 0."""
    return Layout(as_three(src.contiguous(), dim), as_three(index.expand(src.shape), dim))


def resized(shape: torch.Size | tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    """Return `shape` with `size` entries along `dim`."""
    return (*shape[:dim], size, *shape[dim + 1 :])


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


def compact_index(index: torch.Tensor, dim: int) -> torch.Tensor:
    """Return an index without its broadcast axes: size 1 where the stride is 0, other than along `dim`."""
    for axis in range(index.dim()):
        if axis != dim and index.shape[axis] > 1 and index.stride(axis) == 0:
            index = index.narrow(axis, 0, 1)
    return index
