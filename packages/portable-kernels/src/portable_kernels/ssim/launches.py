"""Structural similarity by kernels, on a CUDA device, float32."""

from __future__ import annotations

from functools import cache

import torch

from portable_kernels.compiler import KernelModule, KernelSource
from portable_kernels.ssim.reference import RADIUS

COLUMNS = 128  # of a block
ROWS = 34
SOURCE = KernelSource("ssim.cu")


@cache
def _module() -> KernelModule:
    return KernelModule(SOURCE)


def _geometry(image: torch.Tensor) -> tuple[tuple[int, int, int], list[int]]:
    """Blocks of a launch, and planes, height, width."""
    B, C, H, W = image.shape
    return (B * C * -(-W // COLUMNS), -(-H // ROWS), 1), [B * C, H, W]


def counted_pixels(image: torch.Tensor, valid: bool) -> int:
    """Return how many pixels the mean is over."""
    B, C, H, W = image.shape
    margin = RADIUS if valid else 0
    return B * C * max(H - 2 * margin, 0) * max(W - 2 * margin, 0)


def ssim(
    img1: torch.Tensor, img2: torch.Tensor, valid: bool, train: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean similarity (), and with `train` its derivatives by three local means (3, B, C, H, W), else empty.

    Always the same bits: blocks' sums are kept apart and added up in order.
    """
    count = counted_pixels(img1, valid)
    partials = img1.new_empty((3, *img1.shape) if train else 0)
    if count == 0:
        return img1.new_full((), torch.nan), partials.zero_()
    blocks, size = _geometry(img1)
    sums = img1.new_empty(blocks[0] * blocks[1])
    args = [img1, img2, *size, RADIUS if valid else 0, 1.0 / count, sums, partials if train else None]
    _module().launch("ssim", blocks, COLUMNS, args, img1.device)
    return sums.sum(), partials


def ssim_backward(
    grad: torch.Tensor, img1: torch.Tensor, img2: torch.Tensor, partials: torch.Tensor, valid: bool
) -> torch.Tensor:
    """Gradient by img1 of the mean times `grad` ()."""
    count = counted_pixels(img1, valid)
    if count == 0:
        return torch.zeros_like(img1)
    blocks, size = _geometry(img1)
    d_first = torch.empty_like(img1)
    args = [img1, img2, partials, grad, *size, RADIUS if valid else 0, 1.0 / count, d_first]
    _module().launch("ssim_backward", blocks, COLUMNS, args, img1.device)
    return d_first
