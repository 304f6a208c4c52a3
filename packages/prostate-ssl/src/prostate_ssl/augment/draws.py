"""All random numbers of a batch's crops in one table: a draw's column is its operation.

One call makes the table; on a GPU that is a dozen small kernels where drawing operation by operation takes a
thousand, which was 2 of 5 ms. Columns are part of the stream: never move them, only append.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from prostate_ssl.randomness import uniform

BOX = slice(0, 22)
FLIP = slice(22, 23)
CENTRE = slice(23, 24)
MIXING = slice(24, 25)
JITTER = slice(25, 29)
SPLINE = slice(29, 34)
HISTOGRAM = slice(34, 45)
BLUR = slice(45, 47)
GAMMA = slice(47, 48)
POINTWISE = slice(48, 52)
CONVOLUTION = slice(64, 64 + 360)
_WIDTH = CONVOLUTION.stop


@dataclass(frozen=True)
class CropDraws:
    """Uniform numbers in [0, 1) of n crops; `table` is (…, columns) float32."""

    table: torch.Tensor

    @property
    def bias(self) -> torch.Tensor:
        """(…, columns) what was drawn for bias fields; none unless it was asked for."""
        return self.table[..., _WIDTH:]

    def of(self, columns: slice) -> torch.Tensor:
        """(…, w) numbers of one operation."""
        return self.table[..., columns]

    def one(self, columns: slice) -> torch.Tensor:
        """(…) the single number of one operation."""
        return self.table[..., columns.start]


def draw_crops(keys: torch.Tensor, bias_columns: int = 0) -> CropDraws:
    """Draw everything for crops with int64 keys of any shape.

    Numbers for bias fields stand behind the fixed columns: how many depends on the modalities, and whoever
    wants no field draws none.
    """
    return CropDraws(uniform(keys, _WIDTH + bias_columns))


def to_normal(numbers: torch.Tensor) -> torch.Tensor:
    """Uniform → standard normal, same shape; Box–Muller on the two halves of an even last axis."""
    first, second = numbers.chunk(2, dim=-1)
    radius = torch.sqrt(-2.0 * torch.log1p(-first))
    angle = 2.0 * math.pi * second
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
