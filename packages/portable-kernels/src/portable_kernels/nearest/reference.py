"""Mean squared distances to the three nearest neighbours in plain PyTorch.

Points are put into blocks of neighbours; a block looks only at blocks that can hold something nearer than
what it has found within itself. Nothing is approximated.
"""

from __future__ import annotations

import torch

NEIGHBOURS = 3
BLOCK = 64
_SLACK = 1 + 1e-5  # boxes are compared in the points' own precision


def mean_squared_distance(points: torch.Tensor) -> torch.Tensor:
    """(N, 3) → (N,). Of fewer than three neighbours, the mean of those there are; 0 without any.

    A point that is not finite has NaN, and is nobody's neighbour.
    """
    means = torch.full_like(points[:, 0], torch.nan)
    usable = torch.isfinite(points).all(dim=1).nonzero().squeeze(1)
    if len(usable):
        kept = points[usable]
        order = _block_order(kept)
        means[usable[order]] = _by_blocks(kept[order])
    return means


def _block_order(points: torch.Tensor) -> torch.Tensor:
    """Return an order (N,) in which each `BLOCK` points lie together: slabs by x, columns by y, then z."""
    N = len(points)
    cells = max(1, round((N / BLOCK) ** (1 / 3)))
    order = torch.argsort(points[:, 0])
    groups = 1
    for axis in (1, 2):
        groups *= cells
        group = torch.arange(N, device=points.device) * groups // N
        by_value = torch.argsort(points[order, axis], stable=True)
        order = order[by_value[torch.argsort(group[by_value], stable=True)]]
    return order


def _squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(A, 3), (B, 3) → (A, B), by differences: products would lose small distances."""
    total = (a[:, None, 0] - b[None, :, 0]) ** 2
    for axis in (1, 2):
        total += (a[:, None, axis] - b[None, :, axis]) ** 2
    return total


def _nearest(squared: torch.Tensor) -> torch.Tensor:
    """The smallest `NEIGHBOURS` of each row, ascending; fewer where there are fewer columns."""
    return squared.topk(min(NEIGHBOURS, squared.shape[1]), dim=1, largest=False).values


def _by_blocks(points: torch.Tensor) -> torch.Tensor:
    """Finite points (N, 3) in blocks' order → (N,)."""
    blocks = points.split(BLOCK)
    low = torch.stack([block.amin(dim=0) for block in blocks])
    high = torch.stack([block.amax(dim=0) for block in blocks])
    means = []
    for number, block in enumerate(blocks):
        own = _squared_distances(block, block).fill_diagonal_(torch.inf)
        best = _nearest(own)
        bound = best[:, -1].max() if best.shape[1] == NEIGHBOURS else best.new_tensor(torch.inf)
        gap = (low - high[number]).clamp_min(0) + (low[number] - high).clamp_min(0)
        near = (gap**2).sum(dim=1) < bound * _SLACK
        near[number] = False
        others = near.nonzero().squeeze(1).tolist()
        if others:
            candidates = torch.cat([blocks[other] for other in others])
            best = _nearest(torch.cat([best, _nearest(_squared_distances(block, candidates))], dim=1))
        found = torch.isfinite(best)
        means.append(torch.where(found, best, 0).sum(dim=1) / found.sum(dim=1).clamp_min(1))
    return torch.cat(means)
