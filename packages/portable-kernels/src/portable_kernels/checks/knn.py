"""Neighbours and balls, forward and backward."""

from __future__ import annotations

import torch

from portable_kernels.checks import Case
from portable_kernels.knn import ball_query, knn_gather, knn_points
from portable_kernels.knn.launches import (
    backward_source,
    ball_source,
    direct_source,
    gather_source,
    tree_source,
)


def _clouds(device: torch.device, points: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries = torch.rand((2, 500, 3), generator=generator)
    return queries.to(device), torch.rand((2, points, 3), generator=generator).to(device)


def _neighbours(device: torch.device) -> list[torch.Tensor]:
    queries, cloud = _clouds(device, 4000)
    queries.requires_grad_()
    found = knn_points(queries, cloud, K=3)
    (gradient,) = torch.autograd.grad(found.dists.sum(), queries)
    return [found.dists.detach(), found.idx, gradient, knn_gather(cloud, found.idx)]


def _balls(device: torch.device) -> list[torch.Tensor]:
    queries, cloud = _clouds(device, 2000)
    found = ball_query(queries, cloud, K=8, radius=0.2)
    return [found.dists, found.idx]


CASES = [
    Case(
        "knn_points",
        _neighbours,
        (
            direct_source(torch.float32, 2, 3, 3),
            tree_source(torch.float32, 2, 3),
            backward_source(torch.float32, 2),
            gather_source(4),
        ),
    ),
    Case("ball_query", _balls, (ball_source(torch.float32, 3),)),
]
