from __future__ import annotations

import pytest
import torch

from portable_kernels.compiler import CodeFormat, KernelSource, compile_source
from portable_kernels.knn import launches

CHIPS = [75, 80, 86, 89, 90, 100, 120]
#: What the workload compiles (D 3, K 3, squares).
WORKLOAD = [
    launches.direct_source(torch.float32, 2, 3, 3),
    launches.tree_source(torch.float32, 2, 3),
    launches.backward_source(torch.float32, 2),
    launches.ball_source(torch.float32, 3),
    launches.gather_source(16),
    launches.gather_backward_source(torch.float32),
]
#: Every other branch of the texts.
OTHERS = [
    launches.direct_source(torch.float64, 1, 32, 8),
    launches.direct_source(torch.float32, 2, 100, 2),
    launches.direct_source(torch.float64, 2, 3, 20),
    launches.direct_source(torch.float32, 1, 50, 20),
    launches.tree_source(torch.float64, 1, 32),
    launches.tree_source(torch.float32, 2, 100),
    launches.backward_source(torch.float64, 1),
    launches.ball_source(torch.float64, 9),
    *(launches.gather_source(size) for size in (1, 2, 4, 8)),
    *(launches.gather_backward_source(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)),
]


def _compile(source: KernelSource, chip: int) -> None:
    assert compile_source(source, f"sm_{chip}", CodeFormat.CUBIN).startswith(b"\x7fELF")


@pytest.mark.parametrize("source", WORKLOAD + OTHERS, ids=str)
def test_one_chip(source: KernelSource) -> None:
    _compile(source, 90)


@pytest.mark.slow
@pytest.mark.parametrize("source", WORKLOAD + OTHERS, ids=str)
@pytest.mark.parametrize("chip", [chip for chip in CHIPS if chip != 90])
def test_every_chip(source: KernelSource, chip: int) -> None:
    _compile(source, chip)


def test_ptx() -> None:
    for source in WORKLOAD:
        assert b".visible .entry" in compile_source(source, "compute_90", CodeFormat.PTX)
