from __future__ import annotations

import pytest

from portable_kernels.compiler import CodeFormat, compile_source
from portable_kernels.marching_cubes.launches import INTERP_SOURCE, MESH_SOURCE

CHIPS = [75, 80, 86, 89, 90, 100, 120]


@pytest.mark.parametrize("source", [MESH_SOURCE, INTERP_SOURCE], ids=str)
@pytest.mark.parametrize("chip", CHIPS)
def test_every_chip(source, chip: int) -> None:
    assert compile_source(source, f"sm_{chip}", CodeFormat.CUBIN).startswith(b"\x7fELF")


@pytest.mark.parametrize("source", [MESH_SOURCE, INTERP_SOURCE], ids=str)
def test_ptx(source) -> None:
    assert b".visible .entry" in compile_source(source, "compute_90", CodeFormat.PTX)
