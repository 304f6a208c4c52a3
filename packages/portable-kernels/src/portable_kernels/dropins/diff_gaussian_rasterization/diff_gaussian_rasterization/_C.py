"""What callers use of the compiled module besides rasterising."""

from __future__ import annotations

import torch

from portable_kernels import rasterizer


def mark_visible(means3D: torch.Tensor, viewmatrix: torch.Tensor, projmatrix: torch.Tensor) -> torch.Tensor:
    """Return which centres (N, 3) lie in front of the near plane: (N,) bool. `projmatrix` is not used."""
    return rasterizer.mark_visible(means3D, viewmatrix)
