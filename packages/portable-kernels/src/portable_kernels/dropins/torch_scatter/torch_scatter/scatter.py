"""Reductions by an index in any order."""

from portable_kernels.scatter.functional import (
    scatter,
    scatter_add,
    scatter_max,
    scatter_mean,
    scatter_min,
    scatter_mul,
    scatter_sum,
)
from torch_scatter.utils import broadcast

__all__ = [
    "broadcast",
    "scatter",
    "scatter_add",
    "scatter_max",
    "scatter_mean",
    "scatter_min",
    "scatter_mul",
    "scatter_sum",
]
