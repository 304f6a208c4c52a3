"""A coil's uneven gain as an augmentation: a random smooth field multiplies each modality.

The field is the exponential of a random polynomial over the crop, as in Sudre et al., "Longitudinal
segmentation of age-related white matter hyperintensities" (Medical Image Analysis 2017), which TorchIO's
`RandomBiasField` and MONAI's `RandBiasField` follow too; here in Legendre polynomials, whose orthogonality
gives the strength a plain meaning.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from prostate_ssl.augment.draws import CropDraws, to_normal
from prostate_ssl.augment.planes import is_air

ORDER = 3
"""Highest total degree of the polynomial."""
TERMS = (ORDER + 1) * (ORDER + 2) // 2


@lru_cache(maxsize=8)
def _basis(side: int, device: torch.device) -> torch.Tensor:
    """(TERMS, side, side) products of Legendre polynomials, each of mean square 1 over the square."""
    at = (torch.arange(side, dtype=torch.float64) * 2 + 1) / side - 1
    lines = [torch.ones_like(at), at]
    for degree in range(1, ORDER):
        lines.append(((2 * degree + 1) * at * lines[-1] - degree * lines[-2]) / (degree + 1))
    lines = [line * math.sqrt(2 * degree + 1) for degree, line in enumerate(lines)]
    terms = [lines[i][:, None] * lines[j] for i in range(ORDER + 1) for j in range(ORDER + 1 - i)]
    return torch.stack(terms).to(device, torch.float32)


def bias_columns(modalities: int) -> int:
    """How many uniform numbers a crop's fields take; even, as Box-Muller wants."""
    return TERMS * modalities + TERMS * modalities % 2


def bias_field(images: torch.Tensor, draws: CropDraws, strength: float) -> torch.Tensor:
    """Multiply each modality by a field of its own, exp(polynomial), and clamp to 0–1. Air stays 0.

    Args:
        images: (n, M, S, S) float32 in 0–1.
        draws: of n crops, drawn with `bias_columns(M)` numbers for the field.
        strength: standard deviation of the field's logarithm, over fields and over the crop; 0.3 multiplies
            by 0.74–1.35 for two pixels of three.
    """
    count, modalities, side = images.shape[0], images.shape[1], images.shape[-1]
    numbers = to_normal(draws.bias)[:, : TERMS * modalities]
    weights = numbers.view(count, modalities, TERMS) * (strength / math.sqrt(TERMS))
    field = torch.einsum("nmt,thw->nmhw", weights, _basis(side, images.device))
    return torch.where(is_air(images), images, (images * field.exp()).clamp(0.0, 1.0))
