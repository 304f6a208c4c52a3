"""torch.compile around every op: the same results, and without looking into what derives tables."""

from __future__ import annotations

import time

import pytest
import torch

from .calls import CALLS


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", CALLS)
def test_results_are_equal(name: str, backend: str, device: str) -> None:
    call = CALLS[name]
    arguments = call.on(device)
    expected = call.function(*arguments)
    torch._dynamo.reset()
    begin = time.perf_counter()
    found = torch.compile(call.function, backend=backend)(*arguments)
    assert time.perf_counter() - begin < 60  # seconds; a table of marching_cubes, traced, took no end
    torch.testing.assert_close(found, expected)
