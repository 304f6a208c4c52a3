"""The import name of fused_ssim 1.0.0, served by portable-kernels."""

from portable_kernels.ssim import fused_ssim

__all__ = ["allowed_padding", "fused_ssim"]

allowed_padding = ["same", "valid"]
