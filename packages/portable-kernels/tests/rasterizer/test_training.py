"""The three ops of 3D Gaussian splatting together: a scene is fitted to images of another."""

from __future__ import annotations

import pytest
import torch

from portable_kernels.nearest import distCUDA2
from portable_kernels.ssim import fused_ssim

from .scenes import Scene, random_scene, settings


def _parameters(device: str) -> dict[str, torch.Tensor]:
    """Grey spheres in even places, as wide as their neighbours are far."""
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(60, 3, generator=generator) * 0.6
    scales = distCUDA2(means).sqrt().clamp_min(1e-7).log()[:, None].expand(-1, 3) - 0.7
    values = {
        "means3D": means,
        "opacities": torch.zeros(60, 1),
        "shs": torch.zeros(60, 4, 3),
        "scales": scales,
        "rotations": torch.tensor([[1.0, 0, 0, 0]]).expand(60, -1),
    }
    return {name: t.clone().to(device).requires_grad_() for name, t in values.items()}


def _scene(parameters: dict[str, torch.Tensor]) -> Scene:
    return Scene(
        {
            "means3D": parameters["means3D"],
            "means2D": torch.zeros_like(parameters["means3D"], requires_grad=True),
            "opacities": torch.sigmoid(parameters["opacities"]),
            "shs": parameters["shs"],
            "scales": parameters["scales"].exp(),
            "rotations": torch.nn.functional.normalize(parameters["rotations"], dim=1),
        }
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_scene_is_learned_from_images(device: str) -> None:
    views = [
        settings(32, 40, 1, torch.float32, device, scale_modifier=1.0, antialiasing=False),
        settings(32, 40, 1, torch.float32, device, scale_modifier=1.3, antialiasing=True),
    ]
    target = random_scene(15, 8, coefficients=4, scale=0.5).to(device, torch.float32)
    with torch.no_grad():
        images = [target.render(view)[0] for view in views]
    parameters = _parameters(device)
    rates = {"means3D": 1e-2, "opacities": 5e-2, "shs": 2e-2, "scales": 2e-2, "rotations": 1e-2}
    optimizer = torch.optim.Adam([{"params": [parameters[name]], "lr": rate} for name, rate in rates.items()])
    losses = []
    for step in range(80):
        scene = _scene(parameters)
        image = scene.render(views[step % 2])[0]
        truth = images[step % 2]
        loss = 0.8 * (image - truth).abs().mean() + 0.2 * (1 - fused_ssim(image[None], truth[None]))
        optimizer.zero_grad()
        loss.backward()
        assert scene.arguments["means2D"].grad[:, :2].norm(dim=1).max() > 0  # densification looks at it
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-2:]) < 0.2 * sum(losses[:2])
