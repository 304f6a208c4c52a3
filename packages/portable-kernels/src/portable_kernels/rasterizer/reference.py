"""The rasteriser in plain PyTorch: any float dtype, differentiable. It serves the CPU; the tests trust it.

Projection: Zwicker et al., EWA splatting (2002), equations 26 to 31. Compositing: Kerbl et al., 3D Gaussian
Splatting (2023), equations 2 to 6 and appendix C. Antialiasing: Yu et al., Mip-Splatting (2024), equation 9
with the variance of the low-pass filter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from portable_kernels.rasterizer import harmonics
from portable_kernels.rasterizer.camera import (
    GUARD_BAND,
    LOW_PASS,
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_COMPENSATION,
    MIN_TRANSMITTANCE,
    NEAR,
    TILE,
    Camera,
)


@dataclass(frozen=True)
class Gaussians:
    """A scene. Of `shs` and `colors`, and of `scales` with `rotations` and `cov3D`, one is empty (0,).

    means3D (N, 3), means2D (N, 2 or 3; only its gradient is used), opacities (N, 1), shs (N, M, 3), colors
    (N, 3), scales (N, 3), rotations (N, 4) as w x y z, cov3D (N, 6) as xx xy xz yy yz zz.
    """

    means3D: torch.Tensor
    means2D: torch.Tensor
    opacities: torch.Tensor
    shs: torch.Tensor
    colors: torch.Tensor
    scales: torch.Tensor
    rotations: torch.Tensor
    cov3D: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> Gaussians:
        """The Gaussians of some rows, in their order."""
        return Gaussians(*(t[rows] if t.numel() else t for t in vars(self).values()))


@dataclass(frozen=True)
class Splats:
    """Gaussians on the image plane: centre (N, 2) in pixels, conic (N, 3) = inverse covariance as xx xy yy,
    opacity (N,), depth (N,), radius (N,) in whole pixels (0: not drawn)."""

    centre: torch.Tensor
    conic: torch.Tensor
    opacity: torch.Tensor
    depth: torch.Tensor
    radius: torch.Tensor


def covariances(scales: torch.Tensor, rotations: torch.Tensor, modifier: float) -> torch.Tensor:
    """R S² Rᵀ (N, 6) of scales (N, 3) times `modifier` and quaternions (N, 4), taken as they are, not
    normalised.
    """
    w, x, y, z = rotations.unbind(-1)
    R = torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        dim=-1,
    ).view(-1, 3, 3)
    M = R * (modifier * scales)[:, None, :]
    full = M @ M.transpose(1, 2)
    row, column = torch.triu_indices(3, 3, device=full.device)
    return full[:, row, column]


def _symmetric(cov3D: torch.Tensor) -> torch.Tensor:
    xx, xy, xz, yy, yz, zz = cov3D.unbind(-1)
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], dim=-1).view(-1, 3, 3)


def _projected_covariance(cov3D: torch.Tensor, view: torch.Tensor, camera: Camera) -> torch.Tensor:
    """(N, 3) variances xx xy yy in pixels² without the low-pass filter, of centres `view` (N, 3) in view
    space.
    """
    fx, fy = camera.focal
    z = view[:, 2]
    limit_x, limit_y = GUARD_BAND * camera.tanfovx, GUARD_BAND * camera.tanfovy
    x = (view[:, 0] / z).clamp(-limit_x, limit_x)
    y = (view[:, 1] / z).clamp(-limit_y, limit_y)
    W = camera.viewmatrix[:3, :3]  # column k: the k-th axis of the view
    row_x = (fx / z)[:, None] * (W[:, 0] - x[:, None] * W[:, 2])
    row_y = (fy / z)[:, None] * (W[:, 1] - y[:, None] * W[:, 2])
    JW = torch.stack([row_x, row_y], dim=1)
    cov = JW @ _symmetric(cov3D) @ JW.transpose(1, 2)
    return torch.stack([cov[:, 0, 0], cov[:, 0, 1], cov[:, 1, 1]], dim=-1)


def project(scene: Gaussians, camera: Camera, scale_modifier: float, antialiasing: bool) -> Splats:
    """Every Gaussian as a splat; those that are not drawn have radius 0."""
    ones = torch.ones_like(scene.means3D[:, :1])
    homogeneous = torch.cat([scene.means3D, ones], dim=1)
    view = (homogeneous @ camera.viewmatrix)[:, :3]
    clip = homogeneous @ camera.projmatrix
    ndc = clip[:, :2] / (clip[:, 3:] + 1e-7)
    ndc = ndc + (scene.means2D - scene.means2D.detach())[:, :2]  # means2D exists for its gradient
    size = ndc.new_tensor([camera.width, camera.height])
    centre = ((ndc + 1) * size - 1) * 0.5

    cov3D = scene.cov3D
    if not cov3D.numel():
        cov3D = covariances(scene.scales, scene.rotations, scale_modifier)
    sharp = _projected_covariance(cov3D, view, camera)
    xx, xy, yy = sharp[:, 0] + LOW_PASS, sharp[:, 1], sharp[:, 2] + LOW_PASS
    determinant = xx * yy - xy * xy
    conic = torch.stack([yy, -xy, xx], dim=-1) / determinant[:, None]
    opacity = scene.opacities.reshape(-1)
    if antialiasing:
        ratio = (sharp[:, 0] * sharp[:, 2] - sharp[:, 1] ** 2) / determinant
        opacity = opacity * ratio.clamp_min(MIN_COMPENSATION).sqrt()

    middle = 0.5 * (xx + yy)
    largest = middle + (middle * middle - determinant).clamp_min(0.1).sqrt()
    radius = (3 * largest.sqrt()).ceil()
    drawn = (
        (view[:, 2] > NEAR) & (determinant > 0) & torch.isfinite(radius) & torch.isfinite(centre).all(dim=1)
    )
    drawn &= torch.isfinite(conic).all(dim=1) & torch.isfinite(opacity)
    columns, rows = _tile_rectangle(centre, radius, camera)
    drawn &= (columns[1] > columns[0]) & (rows[1] > rows[0])
    return Splats(centre, conic, opacity, view[:, 2], torch.where(drawn, radius, 0).detach())


def _tile_rectangle(
    centre: torch.Tensor, radius: torch.Tensor, camera: Camera
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """First and past-the-last tile along x and along y, (N,) each as floats, of the squares around the
    splats.
    """
    spans = []
    for axis, tiles in enumerate(camera.tiles):
        first = ((centre[:, axis] - radius) / TILE).floor().clamp(0, tiles)
        last = ((centre[:, axis] + radius + TILE - 1) / TILE).floor().clamp(0, tiles)
        spans.append((first.detach(), last.detach()))
    return spans[0], spans[1]


def _tile_weights(splats: Splats, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Splats from front to back (K) and pixels (P, 2) → weights (P, K) and the light (P,) that passes them
    all.
    """
    offset = splats.centre[None] - pixels[:, None]
    dx, dy = offset.unbind(-1)
    xx, xy, yy = splats.conic.unbind(-1)
    power = -0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy
    alpha = splats.opacity * power.clamp_max(0).exp()
    # The cap acts on the value alone: a splat that reaches it still has a gradient that can lead it away.
    alpha = alpha - (alpha - MAX_ALPHA).clamp_min(0).detach()
    alpha = torch.where((power <= 0) & (alpha >= MIN_ALPHA), alpha, 0)
    passing = torch.cumprod(1 - alpha, dim=1)
    # A splat that would leave less than the minimum is not drawn, nor is any behind it.
    drawn = passing >= MIN_TRANSMITTANCE
    alpha = torch.where(drawn, alpha, 0)
    passing = torch.cumprod(1 - alpha, dim=1)
    before = torch.cat([torch.ones_like(passing[:, :1]), passing[:, :-1]], dim=1)
    return alpha * before, passing[:, -1]


def _blended(weights: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Weights (P, K), features (K, 4) → sums (P, 4) over the splats that a pixel is drawn with."""
    if torch.isfinite(features).all():
        return weights @ features
    # What is not finite shows where it is drawn, and nowhere else.
    drawn = weights[:, :, None] > 0
    return torch.where(drawn, weights[:, :, None] * features, 0).sum(dim=1)


def rasterize(
    scene: Gaussians,
    camera: Camera,
    background: torch.Tensor,
    sh_degree: int,
    scale_modifier: float,
    antialiasing: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Render → colour (3, H, W), radii (N,) int32, inverse depth (1, H, W). `background` (3,).

    The image is differentiable by every tensor of the scene; means2D receives the gradient by the centre on
    the screen, in units of normalised device coordinates (half the image's width or height per unit).
    """
    with torch.no_grad():
        everything = project(scene, camera, scale_modifier, antialiasing)
        shown = everything.radius.nonzero().squeeze(1)
        shown = shown[torch.argsort(everything.depth[shown], stable=True)]
        columns, rows = _tile_rectangle(everything.centre[shown], everything.radius[shown], camera)
    kept = scene[shown]
    splats = project(kept, camera, scale_modifier, antialiasing)
    if scene.colors.numel() or not len(shown):
        colour = kept.colors.reshape(-1, 3)
    else:
        colour = harmonics.colours(sh_degree, kept.shs, kept.means3D, camera.campos)
    features = torch.cat([colour, 1 / splats.depth[:, None]], dim=1)
    image = _composite(splats, features, columns, rows, camera, background)
    return image[:3], everything.radius.to(torch.int32), image[3:]


def _composite(
    splats: Splats,
    features: torch.Tensor,
    columns: tuple[torch.Tensor, torch.Tensor],
    rows: tuple[torch.Tensor, torch.Tensor],
    camera: Camera,
    background: torch.Tensor,
) -> torch.Tensor:
    """Blend features (K, 4) tile by tile → (4, H, W), `background` (3,) behind the first three."""
    across, down = camera.tiles
    behind = torch.cat([background, background.new_zeros(1)])
    axis = torch.arange(TILE, device=features.device, dtype=features.dtype)
    bands = []
    for ty in range(down):
        in_row = ((rows[0] <= ty) & (rows[1] > ty)).nonzero().squeeze(1)
        first, last = columns[0][in_row], columns[1][in_row]
        tiles = []
        for tx in range(across):
            here = in_row[(first <= tx) & (last > tx)]
            if not len(here):
                tiles.append(behind[:, None, None].expand(4, TILE, TILE))
                continue
            y, x = torch.meshgrid(axis + ty * TILE, axis + tx * TILE, indexing="ij")
            local = Splats(*(t[here] for t in vars(splats).values()))
            weights, passing = _tile_weights(local, torch.stack([x, y], dim=-1).view(-1, 2))
            blended = _blended(weights, features[here]) + passing[:, None] * behind
            tiles.append(blended.T.reshape(4, TILE, TILE))
        bands.append(torch.cat(tiles, dim=2))
    return torch.cat(bands, dim=1)[:, : camera.height, : camera.width]
