"""The public surface: `distCUDA2` of `simple_knn._C`."""

from __future__ import annotations

import torch

from portable_kernels.nearest import ops

__all__ = ["distCUDA2", "ops"]


def distCUDA2(points: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance of each point to its three nearest neighbours, exactly: (N,).

    points: (N, 3) float32 (on the CPU also float64). Points in the same place are neighbours at distance 0.
    Of fewer than three neighbours, the mean of those there are, and 0 for a point alone (the original gives
    infinity there). A point with a NaN or infinity has NaN, and is nobody's neighbour. There is no gradient.

    RuntimeError: another shape or dtype.
    """
    if points.dim() != 2 or points.shape[1] != 3:
        raise RuntimeError(f"points must have dimensions (num_points, 3), not {tuple(points.shape)}")
    if points.dtype != torch.float32 and (points.is_cuda or points.dtype != torch.float64):
        raise RuntimeError(f"expected scalar type Float but found {points.dtype}")
    result: torch.Tensor = torch.ops.portable_kernels.mean_squared_distance(points.detach().contiguous())
    return result
