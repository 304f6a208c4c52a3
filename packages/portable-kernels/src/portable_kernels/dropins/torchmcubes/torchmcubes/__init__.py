"""The import name of torchmcubes 0.1.0, served by portable-kernels.

An empty volume gives an empty mesh. Code that counts on torchmcubes' one triangle of zeros there (its CUDA
version's) gets it with `compat=True`, or without a change of code by PORTABLE_KERNELS_TORCHMCUBES_COMPAT=1.
"""

from __future__ import annotations

import os

import torch

from portable_kernels import marching_cubes as _room

__all__ = ["grid_interp", "marching_cubes"]


def marching_cubes(
    vol: torch.Tensor, thresh: float, compat: bool | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Volume (D, H, W) float32 → vertices (V, 3) float32 of (x, y, z), faces (F, 3) int32.

    See `portable_kernels.marching_cubes.marching_cubes`.
    """
    if compat is None:
        compat = os.environ.get("PORTABLE_KERNELS_TORCHMCUBES_COMPAT", "0") == "1"
    return _room.marching_cubes(vol, thresh, compat=compat)


def grid_interp(vol: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Volume (C, D, H, W), points (P, 3) of (x, y, z), → (P, C). See `portable_kernels.marching_cubes`."""
    return _room.grid_interp(vol, points)
