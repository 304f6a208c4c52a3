"""Every kernel of the room compiles for every chip, without a GPU."""

import pytest
import torch

from portable_kernels.compiler import CodeFormat, KernelSource, compile_source
from portable_kernels.scalar_types import CUDA_NAME
from portable_kernels.scatter.sources import (
    INDEX_TYPES,
    REDUCTIONS,
    atomic_source,
    backward_source,
    index_source,
    segment_source,
)

CHIPS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
VECTORS = (1, 2, 4)

SOURCES: list[KernelSource] = [
    *(
        segment_source(dtype, reduction, vector)
        for dtype in CUDA_NAME
        for reduction in REDUCTIONS
        for vector in VECTORS
        if vector * dtype.itemsize <= 16
    ),
    *(atomic_source(dtype) for dtype in CUDA_NAME),
    *(
        backward_source(dtype, vector)
        for dtype in CUDA_NAME
        if dtype.is_floating_point
        for vector in (1, 2, 4, 8)
        if vector * dtype.itemsize <= 16
    ),
    *(index_source(size) for size in (1, 2, 4, 8, 16)),
    *(index_source(4, dtype) for dtype in INDEX_TYPES),
]


@pytest.mark.parametrize("chip", CHIPS)
def test_each_file_compiles_for_every_chip(chip: str) -> None:
    for source in (
        segment_source(torch.float16, "max", 4),
        atomic_source(torch.bfloat16),
        backward_source(torch.float32, 4),
        index_source(16),
    ):
        assert compile_source(source, chip, CodeFormat.CUBIN).startswith(b"\x7fELF")


@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
def test_every_variant_compiles_for_every_chip(chip: str) -> None:
    for source in SOURCES:
        assert compile_source(source, chip, CodeFormat.CUBIN).startswith(b"\x7fELF"), source


def test_a_chip_that_the_compiler_does_not_know_gets_ptx() -> None:
    ptx = compile_source(segment_source(torch.float32, "sum", 4), "compute_120", CodeFormat.PTX)
    assert b".target sm_120" in ptx
    assert b".entry segment_reduce" in ptx
