"""The surface of a ball, and values at its vertices."""

from __future__ import annotations

import torch

from portable_kernels.checks import Case
from portable_kernels.marching_cubes import grid_interp, marching_cubes
from portable_kernels.marching_cubes.launches import INTERP_SOURCE, MESH_SOURCE


def _ball(device: torch.device) -> torch.Tensor:
    axis = torch.linspace(-1, 1, 40)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (x**2 + y**2 + 0.7 * z**2).sqrt().to(device)


def _surface(device: torch.device) -> list[torch.Tensor]:
    return list(marching_cubes(_ball(device), 0.6))


def _values(device: torch.device) -> list[torch.Tensor]:
    volume = _ball(device)
    points = torch.rand((500, 3), generator=torch.Generator().manual_seed(0)).to(device) * 39
    return [grid_interp(volume[None], points)]


CASES = [
    Case("marching_cubes", _surface, (MESH_SOURCE,)),
    Case("grid_interp", _values, (INTERP_SOURCE,)),
]
