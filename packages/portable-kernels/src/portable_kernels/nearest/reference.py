"""Mean squared distances to the three nearest neighbours in plain PyTorch: every pair is looked at."""

from __future__ import annotations

import torch

NEIGHBOURS = 3
_PAIRS_AT_ONCE = 2**22


def mean_squared_distance(points: torch.Tensor) -> torch.Tensor:
    """(N, 3) → (N,). Of fewer than three neighbours, the mean of those there are; 0 without any.

    A point that is not finite has NaN, and is nobody's neighbour.
    """
    N = len(points)
    means = points.new_zeros(N)
    usable = torch.isfinite(points).all(dim=1)
    rows = max(1, _PAIRS_AT_ONCE // max(N, 1))
    for start in range(0, N, rows):
        here = points[start : start + rows]
        squared = ((here[:, None] - points[None]) ** 2).sum(dim=-1)
        squared = torch.where(usable & torch.isfinite(squared), squared, torch.inf)
        squared[torch.arange(len(here)), torch.arange(start, start + len(here))] = torch.inf
        nearest = squared.topk(min(NEIGHBOURS, N), dim=1, largest=False).values
        found = torch.isfinite(nearest)
        total = torch.where(found, nearest, 0).sum(dim=1)
        means[start : start + rows] = total / found.sum(dim=1).clamp_min(1)
    return torch.where(usable, means, torch.nan)
