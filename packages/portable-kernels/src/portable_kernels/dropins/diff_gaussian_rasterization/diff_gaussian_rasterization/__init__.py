"""The import name of diff_gaussian_rasterization, served by portable-kernels: 2023's interface and today's.

Settings without `antialiasing` give (color, radii), with it (color, radii, invdepths).
"""

from __future__ import annotations

from typing import Any

import torch

from diff_gaussian_rasterization import _C
from portable_kernels.rasterizer import (
    GaussianRasterizationSettings,
    GaussianRasterizer,
    rasterize_gaussians,
)

__all__ = ["_C", "GaussianRasterizationSettings", "GaussianRasterizer", "rasterize_gaussians"]


def cpu_deep_copy_tuple(input_tuple: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the tuple with copies of its tensors on the CPU."""
    return tuple(item.cpu().clone() if isinstance(item, torch.Tensor) else item for item in input_tuple)


class _RasterizeGaussians:
    """Stands where the original has an autograd function: `apply` takes the same arguments."""

    apply = staticmethod(rasterize_gaussians)
