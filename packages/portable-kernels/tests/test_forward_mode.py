"""Ops without a forward-mode derivative refuse tangents; nothing is lost without a word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import func
from torch.autograd import forward_ad

from portable_kernels.knn import ball_query, knn_gather, knn_points
from portable_kernels.rasterizer import GaussianRasterizationSettings, GaussianRasterizer
from portable_kernels.ssim import fused_ssim

CLOUD = torch.rand(1, 9, 3)
IMAGE = torch.rand(1, 3, 16, 16)
INDEX = torch.randint(0, 9, (1, 4, 2))


def _image_of(means: torch.Tensor) -> torch.Tensor:
    view = torch.eye(4)
    settings = GaussianRasterizationSettings(
        16, 16, 1.0, 1.0, torch.zeros(3), 1.0, view, view, 0, torch.zeros(3), False, False
    )
    points, ones = means[0] + torch.tensor([0.0, 0.0, 2.0]), torch.ones(means.shape[1], 1)
    return GaussianRasterizer(settings)(
        points,
        points,
        ones,
        colors_precomp=ones.expand(-1, 3),
        scales=ones.expand(-1, 3) / 9,
        rotations=torch.eye(4)[:1].expand(len(ones), 4),
    )[0]


CALLS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]] = {
    "knn_points": (lambda x: knn_points(x, CLOUD, K=2).dists, CLOUD + 1),
    "ball_query": (lambda x: ball_query(CLOUD, x, K=2).dists, CLOUD),
    "knn_gather": (lambda x: knn_gather(x, INDEX), CLOUD),
    "fused_ssim": (lambda x: fused_ssim(x, IMAGE), IMAGE / 2),
    "rasterize_gaussians": (_image_of, CLOUD),
}


@pytest.mark.parametrize("name", CALLS)
def test_tangents_are_refused(name: str) -> None:
    call, value = CALLS[name]
    with pytest.raises(NotImplementedError, match=f"{name} has no forward-mode derivative"):
        func.jvp(call, (value,), (torch.ones_like(value),))
    with forward_ad.dual_level():
        call(value)  # without a tangent all is as ever
        with pytest.raises(NotImplementedError, match=name):
            call(forward_ad.make_dual(value, torch.ones_like(value)))
