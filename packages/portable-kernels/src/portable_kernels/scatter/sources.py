"""The texts that this room compiles, and their modules, one of each."""

from __future__ import annotations

from functools import cache

import torch

from portable_kernels.compiler import KernelModule, KernelSource
from portable_kernels.scalar_types import CUDA_NAME, WORD_OF_SIZE, sum_dtype

REDUCTIONS = {"sum": 0, "mean": 1, "mul": 2, "min": 3, "max": 4}
INDEX_TYPES = (torch.int16, torch.int32, torch.int64)


def segment_source(dtype: torch.dtype, reduction: str, vector: int) -> KernelSource:
    """Return the source of `segment_reduce` for an element type, a reduction and elements per thread."""
    macros = (
        ("SCALAR", CUDA_NAME[dtype]),
        ("REDUCTION", str(REDUCTIONS[reduction])),
        ("VECTOR", str(vector)),
    )
    return KernelSource("scatter.cu", macros)


def atomic_source(dtype: torch.dtype) -> KernelSource:
    """Return the source of the kernels with atomics for an element type."""
    return KernelSource(
        "scatter_atomic.cu", (("SCALAR", CUDA_NAME[dtype]), ("SUM_TYPE", CUDA_NAME[sum_dtype(dtype)]))
    )


def backward_source(dtype: torch.dtype, vector: int) -> KernelSource:
    """Return the source of the gradient of products for an element type and elements per thread."""
    return KernelSource("scatter_backward.cu", (("SCALAR", CUDA_NAME[dtype]), ("VECTOR", str(vector))))


def index_source(word_size: int, index_dtype: torch.dtype = torch.int64) -> KernelSource:
    """Return the source of the kernels that move words of some bytes by an index of some type."""
    return KernelSource("index.cu", (("ELEMENT", WORD_OF_SIZE[word_size]), ("INDEX", CUDA_NAME[index_dtype])))


@cache
def segment_module(dtype: torch.dtype, reduction: str, vector: int) -> KernelModule:
    return KernelModule(segment_source(dtype, reduction, vector))


@cache
def atomic_module(dtype: torch.dtype) -> KernelModule:
    return KernelModule(atomic_source(dtype))


@cache
def backward_module(dtype: torch.dtype, vector: int) -> KernelModule:
    return KernelModule(backward_source(dtype, vector))


@cache
def index_module(word_size: int, index_dtype: torch.dtype = torch.int64) -> KernelModule:
    return KernelModule(index_source(word_size, index_dtype))
