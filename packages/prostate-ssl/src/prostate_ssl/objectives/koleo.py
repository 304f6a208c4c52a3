"""KoLeo: features spread over the sphere (Sablayrolles et al. 2019, «Spreading vectors …»)."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F

from prostate_ssl.objectives.collective import world_size


def koleo_loss(features: torch.Tensor, *, over_ranks: bool = False, eps: float = 1e-8) -> torch.Tensor:
    """−mean log ‖x_i − x_nn(i)‖ over unit vectors: the Kozachenko-Leonenko entropy estimator (eq. 2).

    Args:
        features: (B, D), B ≥ 2, of one view: two views of a case must not repel each other.
        over_ranks: look for neighbours in the batches of all ranks. Published: within the rank.
        eps: keeps the logarithm finite for identical vectors, as published.

    Returns:
        Scalar float32; 0 for a single vector, which has no neighbour.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = F.normalize(features.float(), eps=eps, dim=-1)
        pool, first = x, 0
        if over_ranks and world_size() > 1:
            pool, first = _gather(x), dist.get_rank() * len(x)
        if len(pool) < 2:
            return x.sum() * 0
        with torch.no_grad():
            # Of differences: products of unit vectors cannot tell neighbours closer than about 1e-3 apart,
            # and those of a network that has just begun are.
            apart = torch.cdist(x, pool, compute_mode="donot_use_mm_for_euclid_dist")
            apart.diagonal(first).fill_(torch.inf)  # a vector is not its own neighbour
            nearest = apart.argmin(1)
        # PairwiseDistance adds its own eps to every coordinate difference, as the published code does.
        distance = F.pairwise_distance(x, pool[nearest], p=2, eps=eps)
        return -(distance + eps).log().mean()


class _AllGather(torch.autograd.Function):
    """All ranks' vectors; in the backward pass each rank gets what every rank's loss says about its own."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        ctx.rows = len(x)  # type: ignore[attr-defined]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
        rows: int = ctx.rows  # type: ignore[attr-defined]
        grad = grad.contiguous()
        dist.all_reduce(grad)
        start = dist.get_rank() * rows
        return grad[start : start + rows]


def _gather(x: torch.Tensor) -> torch.Tensor:
    gathered: torch.Tensor = _AllGather.apply(x)
    return gathered
