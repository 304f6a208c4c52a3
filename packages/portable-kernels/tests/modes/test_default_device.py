"""Tensors are made where the arguments are, whatever device torch is told to make them on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from portable_kernels.knn import reference as knn
from portable_kernels.marching_cubes import reference as marching_cubes
from portable_kernels.nearest import reference as nearest
from portable_kernels.rasterizer import reference as rasterizer
from portable_kernels.ssim import reference as ssim

from .calls import CALLS

# In a process of its own: what is made once, such as the word for bad indices, is made under the setting.
GPU = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from modes.calls import CALLS
with torch.device("cpu"):
    expected = {{name: call(*call.on("cpu")) for name, call in CALLS.items()}}
SETTING
for name, call in CALLS.items():
    for found, wanted in zip(call(*call.on("cuda")), expected[name], strict=True):
        assert found.device.type == "cuda", name
        torch.testing.assert_close(found.cpu(), wanted, msg=name)
    for found, wanted in zip(call(*call.on("cpu")), expected[name], strict=True):
        assert found.device.type == "cpu", name
from portable_kernels.index_errors import check_indices
check_indices()
"""


@pytest.mark.parametrize("name", CALLS)
def test_the_cpu(name: str) -> None:
    call = CALLS[name]
    expected = call(*call.on("cpu"))
    arguments = call.on("cpu")
    with torch.device("meta"):
        found = call(*arguments)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


# The dispatcher takes `torch.device` off before it calls these, but not the default tensor type.
REFERENCES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "marching_cubes": (marching_cubes.marching_cubes, (*CALLS["marching_cubes"].arguments, 0.5)),
    "grid_interp": (marching_cubes.grid_interp, CALLS["grid_interp"].arguments),
    "ball_query": (knn.ball_query, (*CALLS["ball_query"].arguments, None, None, 2, 0.4, True)),
    "covariances": (rasterizer.covariances, (torch.ones(4, 3), torch.eye(4), 1.0)),
    "distances": (nearest.mean_squared_distance, CALLS["distCUDA2"].arguments),
    "similarity": (ssim.similarity, CALLS["fused_ssim"].arguments),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_references(name: str) -> None:
    function, arguments = REFERENCES[name]
    expected = function(*arguments)
    with torch.device("meta"):
        found = function(*arguments)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "setting",
    ["torch.set_default_device('cuda')", "torch.set_default_tensor_type('torch.cuda.FloatTensor')"],
)
def test_a_gpu(setting: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", GPU.replace("SETTING", setting)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
