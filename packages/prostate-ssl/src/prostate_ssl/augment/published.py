"""The published order of steps, by request: percentiles of each slice and a resize, then the crop.

Ours clips a whole volume at its percentiles and crops from native resolution. `crops.resize_before_crop` does
it the other way round, for comparisons with the published code.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from prostate_ssl.augment.planes import Planes

LOWER, UPPER = 0.01, 0.99


def bilinear_weights(length: torch.Tensor, width: int, size: int) -> torch.Tensor:
    """Matrices (n, size, width) of `interpolate(mode="bilinear", align_corners=False)` without antialias.

    Args:
        length: (n,) pixels that count, of `width`.
        width: pixels that there is room for.
        size: pixels of the result.
    """
    length = length.to(torch.float32)[:, None]
    place = ((torch.arange(size, device=length.device) + 0.5) * (length / size) - 0.5).clamp(min=0.0)
    left = torch.minimum(place.floor(), length - 1)
    right = torch.minimum(left + 1, length - 1)
    share = (place - left)[..., None]
    pixel = torch.arange(width, device=length.device, dtype=torch.float32)
    return (1 - share) * (pixel == left[..., None]) + share * (pixel == right[..., None])


def slices_as_published(planes: Planes, size: int) -> Planes:
    """Clip each slice of each modality at its own percentiles 1 and 99, then resize it to a square."""
    batch, _, height, width = planes.pixels.shape
    high, wide = planes.extent[:, 0], planes.extent[:, 1]
    rows = torch.arange(height, device=high.device)[None, :, None] < high[:, None, None]
    columns = torch.arange(width, device=high.device)[None, None, :] < wide[:, None, None]
    images = planes.pixels[:, :-1].float()
    known = images.masked_fill(~(rows & columns)[:, None], float("nan")).flatten(2)
    low, top = (torch.nanquantile(known, q, dim=2)[..., None, None] for q in (LOWER, UPPER))
    images = ((images - low) / (top - low).clamp(min=1e-6)).clamp(0.0, 1.0)
    down, across = bilinear_weights(high, height, size)[:, None], bilinear_weights(wide, width, size)[:, None]
    images = down @ images @ across.transpose(2, 3)
    take = torch.arange(size, device=high.device)
    row = (take * high[:, None] // size)[:, None, :, None]
    column = (take * wide[:, None] // size)[:, None, None, :]
    case = torch.arange(batch, device=high.device)[:, None, None, None]
    mask = planes.pixels[:, -1:][case, 0, row, column].float()
    return replace(
        planes, pixels=torch.cat([images, mask], dim=1), extent=torch.full_like(planes.extent, size)
    )
