"""Where crops lie: around the gland, or anywhere."""

from __future__ import annotations

import math

import torch

ASPECT = (3.0 / 4.0, 4.0 / 3.0)
_TRIES = 10


def window_room(plane: tuple[int, int], scale: tuple[float, float], foreground: bool) -> tuple[int, int]:
    """Upper bound of (height, width) of the boxes below, for planes up to `plane`."""
    height, width = plane
    if foreground:
        return max(1, math.ceil(height * scale[1])), max(1, math.ceil(min(1.0, scale[1] * ASPECT[1]) * width))
    side = math.ceil(
        max(math.sqrt(height * width * scale[1] * ASPECT[1]) + 1, min(height, width) * ASPECT[1])
    )
    return min(height, side), min(width, side)


def foreground_boxes(
    centre: tuple[torch.Tensor, torch.Tensor],
    extent: torch.Tensor,
    draws: torch.Tensor,
    scale: tuple[float, float],
) -> torch.Tensor:
    """Boxes around given centres, pushed back inside the slice.

    The height is a uniform share of the slice's height, the width the same share of its width times a
    uniform aspect in 3/4–4/3.

    Args:
        centre: rows and columns, (K, B) float32 each, from `random_gland_pixel`.
        extent: (B, 2) int64 valid (height, width) of each plane.
        draws: (K, B, ≥ 2) uniform numbers.
        scale: share of the side, low and high.

    Returns:
        (K, B, 4) int64 top, left, height, width.
    """
    high, wide = extent[:, 0].float(), extent[:, 1].float()
    share = scale[0] + (scale[1] - scale[0]) * draws[..., 0]
    aspect = ASPECT[0] + (ASPECT[1] - ASPECT[0]) * draws[..., 1]
    height = torch.minimum((high * share).floor(), high).clamp(min=1.0)
    width = torch.minimum((wide * share).floor(), wide).clamp(min=1.0)
    width = torch.minimum((width * aspect).floor(), wide).clamp(min=1.0)
    top = torch.minimum((centre[0] - (height / 2).floor()).clamp(min=0), high - height)
    left = torch.minimum((centre[1] - (width / 2).floor()).clamp(min=0), wide - width)
    return torch.stack([top, left, height, width], dim=-1).to(torch.int64)


def random_gland_pixel(
    gland: torch.Tensor, extent: torch.Tensor, draws: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A uniformly chosen gland pixel; without gland the slice's centre.

    First the row, in proportion to its gland pixels, then the pixel within the row.

    Args:
        gland: (B, H, W) bool, False beyond the extent.
        extent: (B, 2) int64 valid (height, width).
        draws: (K, B) uniform numbers.

    Returns:
        Row and column, (K, B) float32 each.
    """
    per_row = gland.sum(dim=2, dtype=torch.int32)
    upto = per_row.cumsum(dim=1, dtype=torch.int32)
    total = upto[:, -1]
    wanted = torch.minimum((draws * total).to(torch.int32), (total - 1).clamp(min=0))
    row = torch.searchsorted(upto, (wanted + 1).t().contiguous()).t().clamp(max=gland.shape[1] - 1)
    case = torch.arange(gland.shape[0], device=gland.device)
    inside = wanted - (upto[case, row] - per_row[case, row])
    column = (gland[case, row].cumsum(dim=2, dtype=torch.int32) <= inside[..., None]).sum(dim=2)
    none = total == 0
    row = torch.where(none, extent[:, 0] // 2, row)
    column = torch.where(none, extent[:, 1] // 2, column.clamp(max=gland.shape[2] - 1))
    return row.float(), column.float()


def random_boxes(extent: torch.Tensor, draws: torch.Tensor, scale: tuple[float, float]) -> torch.Tensor:
    """Boxes of a random area and aspect, anywhere: the rule of torchvision's `RandomResizedCrop`.

    Ten tries, of which the first that fits is taken; if none fits, the largest central box with an aspect in
    3/4–4/3. Arguments and result as in `foreground_boxes`, with 22 numbers a crop.
    """
    high, wide = extent[:, 0].float(), extent[:, 1].float()
    area = (high * wide)[None, :, None] * (scale[0] + (scale[1] - scale[0]) * draws[..., :_TRIES])
    low, span = math.log(ASPECT[0]), math.log(ASPECT[1]) - math.log(ASPECT[0])
    aspect = torch.exp(low + span * draws[..., _TRIES : 2 * _TRIES])
    widths, heights = torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()
    fits = (widths <= wide[None, :, None]) & (heights <= high[None, :, None]) & (widths > 0) & (heights > 0)
    first = fits.to(torch.int8).argmax(dim=-1, keepdim=True)
    any_fits = fits.any(dim=-1)
    whole_w = torch.minimum(wide, (high * ASPECT[1]).round())
    whole_h = torch.minimum(high, (wide / ASPECT[0]).round())
    width = torch.where(any_fits, widths.gather(-1, first)[..., 0], whole_w)
    height = torch.where(any_fits, heights.gather(-1, first)[..., 0], whole_h)
    free_h, free_w = high - height, wide - width
    top = torch.where(any_fits, (draws[..., -2] * (free_h + 1)).floor(), (free_h / 2).floor())
    left = torch.where(any_fits, (draws[..., -1] * (free_w + 1)).floor(), (free_w / 2).floor())
    top, left = torch.minimum(top, free_h), torch.minimum(left, free_w)
    return torch.stack([top, left, height, width], dim=-1).to(torch.int64)
