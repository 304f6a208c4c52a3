"""Structural similarity of images as a loss, after `fused_ssim`."""

from portable_kernels.ssim.functional import fused_ssim

__all__ = ["fused_ssim"]
