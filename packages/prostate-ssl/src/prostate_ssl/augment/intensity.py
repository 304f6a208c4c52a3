"""Grey-value augmentations of a batch: jitter, spline curve, histogram shift, gamma."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import BSpline, splrep

from prostate_ssl.augment.draws import HISTOGRAM, JITTER, SPLINE, CropDraws
from prostate_ssl.augment.planes import is_air

JITTER_PROBABILITY = 0.8
JITTER_BRIGHTNESS = 0.4
JITTER_CONTRAST = 0.4
SPLINE_PROBABILITY = 0.75
SPLINE_KNOTS = 5
HISTOGRAM_POINTS = (3, 10)


def _per_crop(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply and clamp to 0–1; factor (n,). As torchvision's `adjust_brightness` of a grey image."""
    return (images * _per_crop(factor)).clamp(0.0, 1.0)


def contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Stretch around each modality's mean and clamp; as torchvision's `adjust_contrast` of a grey image."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (_per_crop(factor) * images + (1.0 - _per_crop(factor)) * mean).clamp(0.0, 1.0)


def color_jitter(images: torch.Tensor, crops: CropDraws) -> torch.Tensor:
    """Brightness and contrast by U(0.6, 1.4) in random order, for four crops of five.

    Saturation and hue, which the published settings name too, leave grey images as they are. Air stays 0.

    Args:
        images: (n, M, S, S) float32 in 0–1.
        crops: draws of the n crops.
    """
    draws = crops.of(JITTER)
    light = 1.0 + JITTER_BRIGHTNESS * (2.0 * draws[:, 1] - 1.0)
    strength = 1.0 + JITTER_CONTRAST * (2.0 * draws[:, 2] - 1.0)
    light_first = contrast(brightness(images, light), strength)
    contrast_first = brightness(contrast(images, strength), light)
    changed = torch.where(_per_crop(draws[:, 3] < 0.5), light_first, contrast_first)
    apply = _per_crop(draws[:, 0] < JITTER_PROBABILITY) & ~is_air(images)
    return torch.where(apply, changed, images)


@lru_cache(maxsize=1)
def _spline_basis() -> np.ndarray:
    """(pieces, 4, knots): power coefficients of the interpolating cubic spline, linear in the knots' values.

    An interpolating spline through 5 equidistant knots with `splrep`'s not-a-knot ends has one inner knot
    (0.5) and therefore two cubic pieces. Each unit vector of values gives one column.
    """
    x = np.linspace(0.0, 1.0, SPLINE_KNOTS)
    basis = np.zeros((2, 4, SPLINE_KNOTS))
    for knot in range(SPLINE_KNOTS):
        curve = BSpline(*splrep(x, np.eye(SPLINE_KNOTS)[knot]))
        for piece, start in enumerate((0.0, 0.5)):
            at = start + np.array([0.05, 0.15, 0.3, 0.45])
            basis[piece, :, knot] = np.linalg.solve(np.vander(at, 4, increasing=True), curve(at))
    return basis


@lru_cache(maxsize=8)
def _spline_basis_on(device: torch.device) -> torch.Tensor:
    # Kept on the device: a copy from the host could not be captured in a CUDA graph.
    return torch.as_tensor(_spline_basis(), dtype=torch.float32, device=device)


def spline_curve(images: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Send grey values through a cubic spline; images (n, M, S, S) in 0–1, values (n, 5) at 0, ¼, ½, ¾, 1."""
    basis = _spline_basis_on(images.device)
    coefficients = torch.einsum("pck,nk->npc", basis, values)
    upper = images >= 0.5
    powers = [
        torch.where(upper, _per_crop(coefficients[:, 1, c]), _per_crop(coefficients[:, 0, c]))
        for c in range(4)
    ]
    return ((powers[3] * images + powers[2]) * images + powers[1]) * images + powers[0]


def bspline(images: torch.Tensor, crops: CropDraws) -> torch.Tensor:
    """A random spline curve (0 → 0, 1 → 1, three values between), for three crops of four; air stays 0."""
    draws = crops.of(SPLINE)
    inner = draws[:, 1 : SPLINE_KNOTS - 1]
    ends = torch.zeros_like(inner[:, :1])
    changed = spline_curve(images, torch.cat([ends, inner, ends + 1.0], dim=1))
    apply = _per_crop(draws[:, 0] < SPLINE_PROBABILITY) & ~is_air(images)
    return torch.where(apply, changed, images)


def piecewise_curve(images: torch.Tensor, count: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Piecewise linear map of each image's own range.

    Args:
        images: (n, M, S, S).
        count: (n,) int64 control points, equidistant over each modality's range.
        values: (n, P) float32 where point j of the range goes (0–1); the first `count` are read.
    """
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    span = high - low
    position = (images - low) / span.clamp(min=1e-12) * _per_crop(count - 1)
    left = torch.minimum(position.floor().long(), _per_crop(count - 2)).clamp(min=0)
    table = values[:, None, None, :].expand(*images.shape[:2], 1, -1).flatten(2)
    flat = left.flatten(2)
    start = table.gather(2, flat).view_as(images)
    stop = table.gather(2, flat + 1).view_as(images)
    curve = start + (stop - start) * (position - left)
    return torch.where(span > 0, curve * span + low, images)


def histogram_points(crops: CropDraws) -> tuple[torch.Tensor, torch.Tensor]:
    """Count (n,) int64 and values (n, 10) of the shifted control points; each moves between its neighbours.

    The rule of MONAI's `RandHistogramShift`: point by point, uniform between the moved left and the unmoved
    right neighbour; the ends stay.
    """
    most = HISTOGRAM_POINTS[1]
    draws = crops.of(HISTOGRAM)
    count = HISTOGRAM_POINTS[0] + (draws[:, most] * (most - HISTOGRAM_POINTS[0] + 1)).long()
    step = 1.0 / (count - 1)
    columns = [torch.zeros_like(step)]
    for point in range(1, most):
        right = ((point + 1) * step).clamp(max=1.0)
        moved = columns[-1] + draws[:, point] * (right - columns[-1])
        columns.append(torch.where(point < count - 1, moved, torch.ones_like(step)))
    return count, torch.stack(columns, dim=1)


def histogram_shift(images: torch.Tensor, crops: CropDraws) -> torch.Tensor:
    """A random monotone piecewise linear curve of 3–10 points over each modality's range; air stays 0."""
    count, values = histogram_points(crops)
    return torch.where(is_air(images), images, piecewise_curve(images, count, values))


def gamma(images: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """((x - min) / range) ** γ · range + min of each modality, as MONAI's `AdjustContrast`; exponent (n,)."""
    low = images.amin(dim=(2, 3), keepdim=True)
    span = images.amax(dim=(2, 3), keepdim=True) - low
    return ((images - low) / (span + 1e-7)).clamp(min=0.0).pow(_per_crop(exponent)) * span + low
