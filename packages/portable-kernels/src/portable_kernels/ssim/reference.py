"""Structural similarity in plain PyTorch: Wang et al., Image Quality Assessment (2004), equation 13."""

from __future__ import annotations

import torch

RADIUS = 5
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def similarity(img1: torch.Tensor, img2: torch.Tensor) -> torch.Tensor:
    """Similarity at each pixel, (B, C, H, W), of images in [0, 1]. Beyond the border both are taken as 0."""
    B, C, H, W = img1.shape
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=img1.dtype, device=img1.device)
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()

    def local_mean(values: torch.Tensor) -> torch.Tensor:
        values = values.reshape(B * C, 1, H, W)
        values = torch.nn.functional.conv2d(values, window.view(1, 1, 1, -1), padding=(0, RADIUS))
        return torch.nn.functional.conv2d(values, window.view(1, 1, -1, 1), padding=(RADIUS, 0))

    mean1, mean2 = local_mean(img1), local_mean(img2)
    variance1 = local_mean(img1 * img1) - mean1**2
    variance2 = local_mean(img2 * img2) - mean2**2
    covariance = local_mean(img1 * img2) - mean1 * mean2
    above = (2 * mean1 * mean2 + C1) * (2 * covariance + C2)
    below = (mean1**2 + mean2**2 + C1) * (variance1 + variance2 + C2)
    return (above / below).view(B, C, H, W)


def mean_similarity(img1: torch.Tensor, img2: torch.Tensor, valid: bool) -> torch.Tensor:
    """Mean over all pixels, or with `valid` over those whose window lies within the image; NaN where none
    does.
    """
    if img1.numel() == 0:
        return img1.sum() * torch.nan
    values = similarity(img1, img2)
    if valid:
        values = values[:, :, RADIUS:-RADIUS, RADIUS:-RADIUS]
    return values.mean()
