"""A small scene of Gaussians, drawn, and its gradients."""

from __future__ import annotations

import torch

from portable_kernels.checks import Case
from portable_kernels.rasterizer import GaussianRasterizationSettings, GaussianRasterizer
from portable_kernels.rasterizer.launches import PIXELS, PROJECT, PROJECT_BACKWARD, SORT, blend_source

_COUNT, _SIDE, _TANGENT = 200, 48, 0.5


def _settings(device: torch.device) -> GaussianRasterizationSettings:
    """A camera at the origin that looks along z: row vectors, world to clip space."""
    near, far = 0.01, 100.0
    projection = torch.tensor(
        [
            [1 / _TANGENT, 0, 0, 0],
            [0, 1 / _TANGENT, 0, 0],
            [0, 0, far / (far - near), 1],
            [0, 0, -far * near / (far - near), 0],
        ]
    )
    return GaussianRasterizationSettings(
        image_height=_SIDE,
        image_width=_SIDE,
        tanfovx=_TANGENT,
        tanfovy=_TANGENT,
        bg=torch.tensor([0.1, 0.2, 0.3], device=device),
        scale_modifier=1.0,
        viewmatrix=torch.eye(4, device=device),
        projmatrix=projection.to(device),
        sh_degree=1,
        campos=torch.zeros(3, device=device),
        prefiltered=False,
        debug=False,
        antialiasing=False,
    )


def _draw(device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    scene = {
        "means3D": (numbers(_COUNT, 3) - 0.5) * 2 + torch.tensor([0.0, 0.0, 4.0]),
        "opacities": numbers(_COUNT, 1) * 0.8 + 0.1,
        "shs": numbers(_COUNT, 4, 3) - 0.5,
        "scales": numbers(_COUNT, 3) * 0.1 + 0.05,
        "rotations": torch.nn.functional.normalize(numbers(_COUNT, 4) - 0.5, dim=1),
    }
    scene = {name: tensor.to(device).requires_grad_() for name, tensor in scene.items()}
    screen = torch.zeros((_COUNT, 3), device=device, requires_grad=True)
    color, _, depth = GaussianRasterizer(_settings(device))(means2D=screen, **scene)
    gradients = torch.autograd.grad(color.square().mean() + depth.mean(), list(scene.values()))
    return [color.detach(), depth.detach(), *gradients]


CASES = [
    Case(
        "rasterize_gaussians", _draw, (PROJECT, PROJECT_BACKWARD, SORT, blend_source(PIXELS)), tolerance=1e-3
    )
]
