"""Scenes and cameras that the rasteriser's tests draw."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from portable_kernels.rasterizer import GaussianRasterizationSettings, GaussianRasterizer


def camera_matrices(
    position: tuple[float, float, float], tanfovx: float, tanfovy: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """World to view and world to clip space (row vectors) of a camera that looks along a tilted z axis."""
    angle = torch.tensor(0.2, dtype=torch.float64)
    c, s = torch.cos(angle), torch.sin(angle)
    rotation = torch.eye(3, dtype=torch.float64)
    rotation[0, 0], rotation[0, 2], rotation[2, 0], rotation[2, 2] = c, s, -s, c
    view = torch.eye(4, dtype=torch.float64)
    view[:3, :3] = rotation
    view[3, :3] = -torch.tensor(position, dtype=torch.float64) @ rotation
    near, far = 0.01, 100.0
    projection = torch.zeros(4, 4, dtype=torch.float64)
    projection[0, 0], projection[1, 1] = 1 / tanfovx, 1 / tanfovy
    projection[2, 2], projection[3, 2] = far / (far - near), -far * near / (far - near)
    projection[2, 3] = 1.0
    return view.to(dtype), (view @ projection).to(dtype)


def settings(
    height: int = 37,
    width: int = 45,
    degree: int = 3,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    **changes: object,
) -> GaussianRasterizationSettings:
    """A view of a scene around the origin, from 3.5 units away; the image's sides are no multiples of a tile."""
    tanfovy = 0.5
    tanfovx = tanfovy * width / height
    position = (0.3, -0.2, -3.5)
    view, projection = camera_matrices(position, tanfovx, tanfovy, dtype)
    values: dict[str, object] = {
        "image_height": height,
        "image_width": width,
        "tanfovx": tanfovx,
        "tanfovy": tanfovy,
        "bg": torch.tensor([0.2, 0.5, 0.7], dtype=dtype, device=device),
        "scale_modifier": 1.0,
        "viewmatrix": view.to(device),
        "projmatrix": projection.to(device),
        "sh_degree": degree,
        "campos": torch.tensor(position, dtype=dtype, device=device),
        "prefiltered": False,
        "debug": False,
        "antialiasing": False,
    }
    return GaussianRasterizationSettings(**{**values, **changes})  # type: ignore[arg-type]


@dataclass
class Scene:
    """Arguments of `GaussianRasterizer.forward`, by name."""

    arguments: dict[str, torch.Tensor]

    def to(self, device: str, dtype: torch.dtype) -> Scene:
        """The same scene elsewhere, as leaves that take gradients."""
        return Scene(
            {name: t.detach().to(device, dtype).requires_grad_() for name, t in self.arguments.items()}
        )

    def render(self, view: GaussianRasterizationSettings) -> tuple[torch.Tensor, ...]:
        return GaussianRasterizer(view)(**self.arguments)


def random_scene(
    count: int,
    seed: int = 0,
    colours: str = "shs",
    shape: str = "scales",
    coefficients: int = 16,
    scale: float = 0.15,
    opacity: float = 0.9,
) -> Scene:
    """`count` Gaussians around the origin, some of them outside the image, in float64."""
    g = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=g, dtype=torch.float64)

    arguments = {
        "means3D": normal(count, 3) * torch.tensor([1.0, 1.0, 0.7], dtype=torch.float64),
        "means2D": torch.zeros(count, 3, dtype=torch.float64),
        "opacities": 0.02 + (opacity - 0.02) * uniform(count, 1),
    }
    if colours == "shs":
        arguments["shs"] = 0.4 * normal(count, coefficients, 3)
    else:
        arguments["colors_precomp"] = uniform(count, 3)
    scales = scale * (0.1 + uniform(count, 3))
    rotations = torch.nn.functional.normalize(normal(count, 4), dim=1)
    if shape == "scales":
        arguments["scales"], arguments["rotations"] = scales, rotations
    else:
        from portable_kernels.rasterizer.reference import covariances

        arguments["cov3D_precomp"] = covariances(scales, rotations, 1.0)
    return Scene(arguments)
