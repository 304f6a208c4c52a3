"""A small call of every room, for what torch may put around all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from portable_kernels import knn, marching_cubes, nearest, scatter, ssim
from portable_kernels.rasterizer import GaussianRasterizationSettings, GaussianRasterizer


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _draw(means: torch.Tensor, colours: torch.Tensor, scales: torch.Tensor) -> tuple[torch.Tensor, ...]:
    device = means.device
    view = torch.eye(4, device=device)
    view[3, 2] = 3.0
    projection = torch.zeros(4, 4, device=device)
    projection[0, 0] = projection[1, 1] = projection[2, 2] = projection[2, 3] = 1.0
    zeros = torch.zeros(3, device=device)
    settings = GaussianRasterizationSettings(
        32, 40, 1.0, 1.0, zeros, 1.0, view, view @ projection, 0, zeros, False, False, False
    )
    rotations = torch.eye(4, device=device)[:1].expand(len(means), 4)
    return GaussianRasterizer(settings)(
        means,
        torch.zeros_like(means),
        colours[:, :1],
        colors_precomp=colours,
        scales=scales,
        rotations=rotations,
    )


INDEX = torch.tensor([0, 2, 1, 2, 0, 1])
SORTED = torch.tensor([0, 0, 1, 2, 2, 2])
POINTERS = torch.tensor([0, 2, 6])


@dataclass(frozen=True)
class Call:
    """A function, and what it is called with: on the CPU, float32 unless int64."""

    function: Callable[..., Any]
    arguments: tuple[torch.Tensor, ...]

    def on(self, device: str, requires_grad: bool = False) -> tuple[torch.Tensor, ...]:
        """The arguments on a device; with `requires_grad` the floating ones are leaves that take gradients."""
        return tuple(
            t.to(device).detach().requires_grad_(requires_grad and t.is_floating_point())
            for t in self.arguments
        )

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.function(*arguments)
        return (found,) if isinstance(found, torch.Tensor) else tuple(t for t in found if t is not None)


DIFFERENTIABLE = {
    "scatter_sum": Call(lambda x, i: scatter.scatter_sum(x, i, 0), (_random(6, 3), INDEX)),
    "scatter_max": Call(lambda x, i: scatter.scatter_max(x, i, 0), (_random(6, 3), INDEX)),
    "scatter_std": Call(lambda x, i: scatter.scatter_std(x, i, 0), (_random(6, 3), INDEX)),
    "segment_coo": Call(scatter.segment_mean_coo, (_random(6, 3), SORTED)),
    "segment_csr": Call(scatter.segment_min_csr, (_random(6, 3), POINTERS)),
    "gather_csr": Call(scatter.gather_csr, (_random(2, 3), POINTERS)),
    "gather_coo": Call(scatter.gather_coo, (_random(3, 3), SORTED)),
    "knn_points": Call(
        lambda p, q: tuple(knn.knn_points(p, q, K=2, return_nn=True)), (_random(1, 9, 3), _random(1, 7, 3, seed=1))
    ),
    "ball_query": Call(
        lambda p, q: tuple(knn.ball_query(p, q, K=2, radius=0.4)), (_random(1, 9, 3), _random(1, 7, 3, seed=1))
    ),
    "fused_ssim": Call(ssim.fused_ssim, (_random(1, 3, 16, 20), _random(1, 3, 16, 20, seed=1))),
    "rasterizer": Call(_draw, (_random(20, 3) - 0.5, _random(20, 3, seed=1), _random(20, 3, seed=2) * 0.2 + 0.05)),
}  # fmt: skip
CALLS = {
    **DIFFERENTIABLE,
    "marching_cubes": Call(lambda v: marching_cubes.marching_cubes(v, 0.5), (_random(6, 7, 40),)),
    "grid_interp": Call(marching_cubes.grid_interp, (_random(2, 4, 5, 6), _random(9, 3) * 4)),
    "distCUDA2": Call(nearest.distCUDA2, (_random(300, 3),)),
}
