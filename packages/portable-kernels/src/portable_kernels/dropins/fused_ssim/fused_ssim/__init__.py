"""The import name of fused_ssim 1.0.0, served by portable-kernels: the function `fused_ssim`."""

from __future__ import annotations

from portable_kernels.ssim import fused_ssim

__all__ = ["allowed_padding", "fused_ssim"]

allowed_padding = ["same", "valid"]

_ORIGINALS_ALONE = ("FusedSSIMMap", "fused_ssim3d")


def __getattr__(name: str) -> object:
    if name in _ORIGINALS_ALONE:
        raise ImportError(
            f"'{name}' is not in this fused_ssim: it is a shim of portable-kernels with the function "
            "fused_ssim (of images) alone. For more, put the original in its place: run 'portable-kernels "
            "uninstall --shim fused_ssim', then pip install --no-build-isolation "
            "'git+https://github.com/rahul-goel/fused-ssim.git'."
        )
    raise AttributeError(f"module 'fused_ssim' has no attribute '{name}'", name=name)
