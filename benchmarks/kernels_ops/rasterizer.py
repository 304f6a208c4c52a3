"""diff_gaussian_rasterization: 100,000 Gaussians (times 10: a million), 1024×1024 pixels, degree 3."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from kernels_ops import Comparison, original_module
from portable_kernels import rasterizer as ours

GAUSSIANS, PIXELS = 100_000, 1024
MEDIAN_SCALE = 0.012  # of the 100,000; more Gaussians are smaller


def _settings(library: Any) -> Any:
    """A camera that sees the cube from -2 to 2, four units away."""
    tangent = math.tan(math.radians(30))
    view = torch.eye(4, device="cuda")
    view[3, 2] = 4.0
    projection = torch.zeros(4, 4, device="cuda")
    projection[0, 0] = projection[1, 1] = 1 / tangent
    projection[2, 2] = projection[2, 3] = 1.0
    projection[3, 2] = -0.01
    background = torch.tensor([0.1, 0.2, 0.3], device="cuda")
    position = torch.tensor([0.0, 0.0, -4.0], device="cuda")
    camera = (PIXELS, PIXELS, tangent, tangent, background, 1.0, view, view @ projection, 3, position)
    return library.GaussianRasterizationSettings(*camera, False, False)


def _scene(count: int, scale: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator(device="cuda").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device="cuda")

    scene = {
        "means3D": (torch.rand(count, 3, generator=generator, device="cuda") * 2 - 1) * 2,
        "means2D": torch.zeros(count, 3, device="cuda"),
        "opacities": torch.sigmoid(2 * normal(count, 1)),
        "shs": 0.2 * normal(count, 16, 3),
        "scales": torch.exp(0.5 * normal(count, 3) + math.log(scale)),
        "rotations": torch.nn.functional.normalize(normal(count, 4), dim=1),
    }
    scene["shs"][:, 0] += 0.5
    return {name: t.requires_grad_() for name, t in scene.items()}


def comparisons(times: int) -> Iterator[Comparison]:
    """Yield forward, backward and both for `times` the Gaussians."""
    original = original_module("diff_gaussian_rasterization")
    count = GAUSSIANS * times
    scene = _scene(count, MEDIAN_SCALE / times**0.3)
    leaves = list(scene.values())
    gradient = torch.rand(3, PIXELS, PIXELS, device="cuda")

    def forward(library: Any) -> Callable[[], Any]:
        rasterizer = library.GaussianRasterizer(_settings(library))
        return lambda: rasterizer(**scene)[0]

    def backward(library: Any) -> Callable[[], Any]:
        image = forward(library)()
        return lambda: torch.autograd.grad(image, leaves, gradient, retain_graph=True)

    def both(library: Any) -> Callable[[], Any]:
        draw = forward(library)
        return lambda: torch.autograd.grad(draw(), leaves, gradient)

    for case, make in (("forward", forward), ("backward", backward), ("forward and backward", both)):
        name = f"{count} Gaussians, {PIXELS}², degree 3, {case}"
        yield Comparison("rasterize_gaussians", name, make(ours), make(original) if original else None)
