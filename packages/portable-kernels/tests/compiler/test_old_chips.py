"""Chips that only NVRTC 12 makes code for: what differs in the texts for them compiles too."""

from __future__ import annotations

import pytest
import torch

from portable_kernels.compiler import CodeFormat, KernelSource, compile_source, known_chips
from portable_kernels.knn import launches as knn
from portable_kernels.rasterizer import launches as rasterizer
from portable_kernels.scatter import sources as scatter

CHIPS = (50, 60, 61, 70)
SOURCES = (
    rasterizer.SORT,
    *(scatter.atomic_source(dtype) for dtype in (torch.float32, torch.float64)),
    knn.backward_source(torch.float64, 2),
    knn.gather_backward_source(torch.float64),
)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_compiles(source: KernelSource, chip: int) -> None:
    if chip not in known_chips():
        pytest.skip(f"this NVRTC makes no code for sm_{chip}")
    assert compile_source(source, f"sm_{chip}", CodeFormat.CUBIN).startswith(b"\x7fELF")
