"""What the augmentation takes in."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Planes:
    """One slice of every case of a batch, on the device.

    Attributes:
        pixels: (B, M + 1, H, W) float16 or float32; modalities in 0–1, last the gland mask; zeros beyond
            `extent`.
        extent: (B, 2) int64 valid (height, width).
        present: (B, M) bool.
        keys: (B,) int64, folded from (seed, epoch, case).
        mask_targets: (G, B) int64 patches to mask in each global crop.
    """

    pixels: torch.Tensor
    extent: torch.Tensor
    present: torch.Tensor
    keys: torch.Tensor
    mask_targets: torch.Tensor


AIR = 1e-4
"""Grey values up to this count as air. Resampling leaves 1e-7 where another processor leaves 0."""


def is_air(images: torch.Tensor) -> torch.Tensor:
    """Pixels of air and of absent modalities, bool; no augmentation changes them (as published: x = 0)."""
    return images <= AIR
