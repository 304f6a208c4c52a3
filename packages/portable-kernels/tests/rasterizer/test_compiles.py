"""Every kernel of the room compiles for every chip, without a GPU."""

from __future__ import annotations

import pytest

from portable_kernels.compiler import CodeFormat, KernelSource, compile_source
from portable_kernels.rasterizer import launches

QUICK = ("sm_75", "sm_120")
CHIPS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100")


@pytest.mark.parametrize("source", launches.sources(), ids=str)
@pytest.mark.parametrize("chip", [*QUICK, *(pytest.param(chip, marks=pytest.mark.slow) for chip in CHIPS)])
def test_compiles(source: KernelSource, chip: str) -> None:
    assert compile_source(source, chip, CodeFormat.CUBIN).startswith(b"\x7fELF")


@pytest.mark.parametrize("source", launches.sources(), ids=str)
def test_makes_ptx(source: KernelSource) -> None:
    assert b".entry" in compile_source(source, "compute_90", CodeFormat.PTX)
