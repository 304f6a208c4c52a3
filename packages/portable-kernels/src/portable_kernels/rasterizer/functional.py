"""The public surface of the rasteriser: that of the published `diff_gaussian_rasterization`, 2023 and
current.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from portable_kernels.forward_mode import refuse_tangents
from portable_kernels.rasterizer import launches, ops
from portable_kernels.rasterizer.camera import NEAR

__all__ = [
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "mark_visible",
    "ops",
    "rasterize_gaussians",
]

SNAPSHOT = "snapshot_fw.dump"


class GaussianRasterizationSettings(NamedTuple):
    """One view of a scene.

    image_height, image_width: pixels. tanfovx, tanfovy: tangents of half the fields of view. bg: (3,)
    background. scale_modifier: all scales are multiplied by it. viewmatrix, projmatrix: (4, 4) world to view
    and world to clip space, acting on row vectors (the transposes of the usual matrices). sh_degree: 0 to 3,
    how much of the harmonics is used. campos: (3,). prefiltered: the caller has left out what is not visible
    (only a promise: nothing relies on it). debug: wait for the device after each pass, so that an error is
    raised where it arose; if the forward pass fails, its arguments are written to `snapshot_fw.dump`.
    antialiasing: opacities are scaled by how much the low-pass filter blurs (Mip-Splatting). Settings
    without it, as of 2023, give (color, radii); with it, True or False, as in the current release, (color,
    radii, invdepths).
    """

    image_height: int
    image_width: int
    tanfovx: float
    tanfovy: float
    bg: torch.Tensor
    scale_modifier: float
    viewmatrix: torch.Tensor
    projmatrix: torch.Tensor
    sh_degree: int
    campos: torch.Tensor
    prefiltered: bool
    debug: bool
    antialiasing: bool | None = None


def _check_tensor(
    name: str, tensor: torch.Tensor, means: torch.Tensor, shapes: tuple[tuple[int, ...], ...]
) -> None:
    """RuntimeError unless a tensor has means3D's dtype and device, and one of the shapes."""
    if tensor.device != means.device:
        raise RuntimeError(f"{name} is on {tensor.device}, but means3D is on {means.device}")
    if tensor.dtype != means.dtype:
        raise RuntimeError(f"{name} is of type {tensor.dtype}, but means3D is of {means.dtype}")
    if tensor.shape not in shapes:
        raise RuntimeError(f"{name} must have dimensions {shapes[-1]}, not {tuple(tensor.shape)}")


def _check_harmonics(shs: torch.Tensor, N: int, degree: int) -> None:
    if shs.dim() != 3 or shs.shape[0] != N or shs.shape[2] != 3:
        raise RuntimeError(f"shs must have dimensions ({N}, coefficients, 3), not {tuple(shs.shape)}")
    if shs.shape[1] < (degree + 1) ** 2:
        raise RuntimeError(
            f"shs holds {shs.shape[1]} coefficients; degree {degree} needs {(degree + 1) ** 2}"
        )


def _check_pairs(scene: dict[str, torch.Tensor], N: int) -> None:
    """RuntimeError unless N Gaussians have one colour and one shape: what is empty is not given."""
    if N == 0:
        return
    given = {name for name, tensor in scene.items() if tensor.numel()}
    for first, other in ((("shs",), "colors_precomp"), (("scales", "rotations"), "cov3D_precomp")):
        found = [name for name in first if name in given]
        if len(found) not in (0, len(first)) or bool(found) == (other in given):
            dimensions = ", ".join(f"{name} {tuple(scene[name].shape)}" for name in (*first, other))
            raise RuntimeError(
                f"{N} Gaussians need exactly one of {' with '.join(first)} and {other}, not {dimensions}"
            )


def _check(scene: dict[str, torch.Tensor], settings: Any) -> None:
    """Raise what is wrong with the arguments, before any kernel starts."""
    means = scene["means3D"]
    if means.dim() != 2 or means.shape[1] != 3:
        raise RuntimeError("means3D must have dimensions (num_points, 3)")
    if means.is_cuda and means.dtype != torch.float32:
        raise RuntimeError(f"expected scalar type Float but found {means.dtype} for means3D")
    if not means.is_floating_point():
        raise RuntimeError(f"means3D must be of a floating type, not {means.dtype}")
    if not 0 <= settings.sh_degree <= 3:
        raise RuntimeError(f"sh_degree must be 0, 1, 2 or 3, not {settings.sh_degree}")
    N = len(means)
    _check_tensor("means2D", scene["means2D"], means, ((N, 2), (N, 3)))
    _check_tensor("opacities", scene["opacities"], means, ((N,), (N, 1)))
    for name, columns in (("colors_precomp", 3), ("scales", 3), ("rotations", 4), ("cov3D_precomp", 6)):
        if scene[name].numel():
            _check_tensor(name, scene[name], means, ((N, columns),))
    if scene["shs"].numel():
        _check_tensor("shs", scene["shs"], means, (scene["shs"].shape,))
        _check_harmonics(scene["shs"], N, settings.sh_degree)
    _check_pairs(scene, N)
    for name, shape in (("bg", (3,)), ("campos", (3,)), ("viewmatrix", (4, 4)), ("projmatrix", (4, 4))):
        _check_tensor(name, getattr(settings, name), means, (shape,))
    if not (settings.tanfovx > 0 and settings.tanfovy > 0):
        raise RuntimeError(f"tanfovx and tanfovy must be above 0, not {settings.tanfovx}, {settings.tanfovy}")
    if settings.image_height < 1 or settings.image_width < 1:
        raise RuntimeError(f"the image's size is {settings.image_height} by {settings.image_width} pixels")


def rasterize_gaussians(
    means3D: torch.Tensor,
    means2D: torch.Tensor,
    sh: torch.Tensor,
    colors_precomp: torch.Tensor,
    opacities: torch.Tensor,
    scales: torch.Tensor,
    rotations: torch.Tensor,
    cov3Ds_precomp: torch.Tensor,
    raster_settings: GaussianRasterizationSettings,
) -> tuple[torch.Tensor, ...]:
    """Render a scene; absent tensors are empty. Shapes, result and gradients: see
    `GaussianRasterizer.forward`.
    """
    settings = raster_settings
    scene = {
        "means3D": means3D,
        "means2D": means2D,
        "opacities": opacities,
        "shs": sh,
        "colors_precomp": colors_precomp,
        "scales": scales,
        "rotations": rotations,
        "cov3D_precomp": cov3Ds_precomp,
    }
    antialiasing = getattr(settings, "antialiasing", None)
    try:
        _check(scene, settings)
        refuse_tangents("rasterize_gaussians", *scene.values())
        view = (settings.bg, settings.viewmatrix, settings.projmatrix, settings.campos)
        color, radii, inverse_depth, *_ = torch.ops.portable_kernels.rasterize(
            *(t.contiguous() for t in (*scene.values(), *view)),
            *(float(settings.tanfovx), float(settings.tanfovy)),
            *(int(settings.image_height), int(settings.image_width), int(settings.sh_degree)),
            *(float(settings.scale_modifier), bool(antialiasing)),
        )
        if settings.debug and means3D.is_cuda:
            torch.cuda.synchronize(means3D.device)
    except Exception:
        if settings.debug:
            kept = {**scene, **{f: getattr(settings, f) for f in GaussianRasterizationSettings._fields[:-1]}}
            torch.save(
                {k: v.detach().cpu() if isinstance(v, torch.Tensor) else v for k, v in kept.items()}, SNAPSHOT
            )
        raise
    return (color, radii) if antialiasing is None else (color, radii, inverse_depth)


def mark_visible(positions: torch.Tensor, viewmatrix: torch.Tensor) -> torch.Tensor:
    """Return which positions (N, 3) lie in front of the near plane, 0.2 in view space: (N,) bool.

    `viewmatrix` (4, 4) acts on row vectors. RuntimeError: shapes, dtypes or devices that don't fit.
    """
    if positions.dim() != 2 or positions.shape[1] != 3:
        raise RuntimeError(f"positions must have dimensions (num_points, 3), not {tuple(positions.shape)}")
    if viewmatrix.shape != (4, 4):
        raise RuntimeError(f"viewmatrix must have dimensions (4, 4), not {tuple(viewmatrix.shape)}")
    positions, viewmatrix = positions.detach().contiguous(), viewmatrix.detach().contiguous()
    if positions.is_cuda:
        if positions.dtype != torch.float32 or viewmatrix.dtype != torch.float32:
            raise RuntimeError(
                f"expected scalar type Float but found {positions.dtype} and {viewmatrix.dtype}"
            )
        if viewmatrix.device != positions.device:
            raise RuntimeError(
                f"viewmatrix is on {viewmatrix.device}, but positions are on {positions.device}"
            )
        return launches.mark_visible(positions, viewmatrix)
    return positions @ viewmatrix[:3, 2] + viewmatrix[3, 2] > NEAR


class GaussianRasterizer(torch.nn.Module):
    """Renders 3-D Gaussians as one camera sees them (Kerbl et al., 3D Gaussian Splatting, 2023)."""

    def __init__(self, raster_settings: GaussianRasterizationSettings) -> None:
        super().__init__()
        self.raster_settings = raster_settings

    def markVisible(self, positions: torch.Tensor) -> torch.Tensor:
        """Return which positions (N, 3) lie in front of the camera: (N,) bool."""
        return mark_visible(positions, self.raster_settings.viewmatrix)

    mark_visible = markVisible

    def forward(
        self,
        means3D: torch.Tensor,
        means2D: torch.Tensor,
        opacities: torch.Tensor,
        shs: torch.Tensor | None = None,
        colors_precomp: torch.Tensor | None = None,
        scales: torch.Tensor | None = None,
        rotations: torch.Tensor | None = None,
        cov3D_precomp: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Render → color (3, H, W), radii (N,) int32 in pixels (0: not drawn), and invdepths (1, H, W) where
        the settings have `antialiasing`.

        means3D (N, 3) world; means2D (N, 3), whose values are not used: its gradient is that by the centre
        on the screen, half the image's width (height) in pixels being one unit; opacities (N, 1) in [0, 1];
        shs (N, M, 3), M >= (sh_degree + 1)², or colors_precomp (N, 3); scales (N, 3) with rotations (N, 4)
        quaternions w x y z, expected normalised, or cov3D_precomp (N, 6) as xx xy xz yy yz zz. float32; on
        the CPU float64 too. Differentiable by all of them. A Gaussian with a NaN or infinity in its place,
        shape or opacity is not drawn.

        Exception: both or neither of a pair given. RuntimeError: shapes, dtypes or devices that don't fit.
        """
        if (shs is None) == (colors_precomp is None):
            raise Exception("Please provide exactly one of either SHs or precomputed colors!")
        pair = scales is not None or rotations is not None
        if pair == (cov3D_precomp is not None) or (pair and (scales is None or rotations is None)):
            raise Exception(
                "Please provide exactly one of either scale/rotation pair or precomputed 3D covariance!"
            )
        empty = means3D.new_empty(0)
        shs, colors_precomp, scales, rotations, cov3D_precomp = (
            empty if t is None else t for t in (shs, colors_precomp, scales, rotations, cov3D_precomp)
        )
        return rasterize_gaussians(
            means3D,
            means2D,
            shs,
            colors_precomp,
            opacities,
            scales,
            rotations,
            cov3D_precomp,
            self.raster_settings,
        )
