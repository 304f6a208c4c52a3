"""One view of every scatter, segment and gather.

(B, E, K), B outer, E along the reduced dimension, K inner.
"""

from __future__ import annotations

from enum import IntEnum
from math import prod
from typing import NamedTuple

import torch

Shape = tuple[int, ...]


class Start(IntEnum):
    """What a minimum or maximum must beat: the kernels' `enum Start`."""

    ELEMENT = 0  # the element type's finite extreme: scatter, segment_coo
    ACCUMULATOR = 1  # that of the type it is computed in: segment_csr
    INFINITE = 2  # any number may win: where `out` is given, and compared afterwards


class Place(NamedTuple):
    """Where an index points, as (B, E, K).

    Its tensor, the sizes, and its strides, 0 along axes that share it.
    """

    targets: torch.Tensor
    B: int
    E: int
    K: int
    stride_b: int
    stride_e: int
    stride_k: int

    @property
    def shared(self) -> bool:
        """Whether all of B and K share the index, which is then (E,)."""
        return (self.B == 1 or self.stride_b == 0) and (self.K == 1 or self.stride_k == 0)

    @property
    def strides(self) -> tuple[int, int, int]:
        return self.stride_b, self.stride_e, self.stride_k


def as_three(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the (B, E, K) view of a tensor, or a copy where its strides allow none."""
    shape = tensor.shape
    return tensor.reshape(prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :]))


def with_rank(index: torch.Tensor, rank: int, dim: int) -> torch.Tensor:
    """Return a 1-D index along `dim` with `rank` dimensions; one that has them already as it is."""
    return index if index.dim() == rank else index.reshape((1,) * dim + (-1,) + (1,) * (rank - dim - 1))


def place(index: torch.Tensor, shape: tuple[int, ...], dim: int) -> Place:
    """Return where an index points, for a source of `shape`: a 1-D index along `dim`, or one of `shape`'s
    rank.

    Each dimension of the latter has `shape`'s size or 1. Views are avoided where strides say it all.
    """
    E, B, K = shape[dim], prod(shape[:dim]), prod(shape[dim + 1 :])
    if index.dim() == 1:
        return Place(index, B, E, K, 0, index.stride(0), 0)
    if index.numel() == index.shape[dim] and index.shape[dim] == E:
        return Place(index, B, E, K, 0, index.stride(dim), 0)
    three = as_three(index.expand(shape), dim)
    return Place(three, B, E, K, *three.stride())


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
