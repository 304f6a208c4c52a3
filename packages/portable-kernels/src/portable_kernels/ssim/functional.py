"""The public surface: that of `fused_ssim`."""

from __future__ import annotations

import torch

from portable_kernels.forward_mode import refuse_tangents
from portable_kernels.ssim import ops

__all__ = ["fused_ssim", "ops"]

PADDINGS = ("same", "valid")


def fused_ssim(
    img1: torch.Tensor, img2: torch.Tensor, padding: str = "same", train: bool = True
) -> torch.Tensor:
    """Return the mean structural similarity () of two batches of images.

    img1, img2: (B, C, H, W) in [0, 1], float32 (on the CPU any floating type), of one device. Window:
    Gaussian, 11 by 11, sigma 1.5; constants 0.01² and 0.03²; each channel by itself. padding: "same"
    averages over all pixels, zeros standing beyond the border; "valid" over those whose window lies within
    the image (NaN where there are none). Differentiable by img1 alone, as the original; train False keeps
    nothing for the gradient, and the result has none.

    AssertionError: another padding. RuntimeError: shapes, dtypes or devices that don't fit.
    Source: Wang, Bovik, Sheikh and Simoncelli, Image Quality Assessment (2004).
    """
    assert padding in PADDINGS, f"padding must be one of {PADDINGS}, not {padding!r}"
    if img1.dim() != 4:
        raise RuntimeError(f"img1 must have dimensions (B, C, H, W), not {tuple(img1.shape)}")
    if img1.shape != img2.shape:
        raise RuntimeError(f"img1 is {tuple(img1.shape)}, but img2 is {tuple(img2.shape)}")
    if img1.device != img2.device:
        raise RuntimeError(f"img1 is on {img1.device}, but img2 is on {img2.device}")
    if img1.dtype != img2.dtype:
        raise RuntimeError(f"img1 is of type {img1.dtype}, but img2 is of {img2.dtype}")
    if not img1.is_floating_point() or (img1.is_cuda and img1.dtype != torch.float32):
        raise RuntimeError(f"expected scalar type Float but found {img1.dtype}")
    if not train:
        img1 = img1.detach()
    refuse_tangents("fused_ssim", img1)
    train = img1.requires_grad and torch.is_grad_enabled()
    mean, _ = torch.ops.portable_kernels.ssim(
        img1.contiguous(), img2.detach().contiguous(), padding == "valid", train
    )
    return mean
