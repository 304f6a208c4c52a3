"""3D Gaussian splatting: 3-D Gaussians to an image and back, after Kerbl et al. 2023."""

from portable_kernels.rasterizer.functional import (
    GaussianRasterizationSettings,
    GaussianRasterizer,
    mark_visible,
    rasterize_gaussians,
)

__all__ = ["GaussianRasterizationSettings", "GaussianRasterizer", "mark_visible", "rasterize_gaussians"]
