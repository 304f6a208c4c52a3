"""Gaussian blur of a batch, each crop with its own σ."""

from __future__ import annotations

import torch
from torch.nn import functional

KERNEL = 9
LEAST_SIGMA = 0.1


def blur_matrices(sigma: torch.Tensor, size: int) -> torch.Tensor:
    """Matrices that blur along one axis with nine taps and reflected borders (torchvision's `GaussianBlur`).

    Args:
        sigma: (n,) float32 pixels; 0 gives the identity.
        size: pixels along the axis, at least 5.

    Returns:
        (n, size, size) float32.
    """
    tap = torch.arange(KERNEL, device=sigma.device) - KERNEL // 2
    weights = _tap_weights(sigma)
    pixel = torch.arange(size, device=sigma.device)
    source = pixel[:, None] + tap
    source = torch.where(source < 0, -source, source)
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    matrix = torch.zeros(sigma.shape[0], size, size, device=sigma.device)
    return matrix.scatter_add_(
        2, source.expand(sigma.shape[0], -1, -1), weights[:, None].expand(-1, size, -1)
    )


def _tap_weights(sigma: torch.Tensor) -> torch.Tensor:
    tap = torch.arange(KERNEL, device=sigma.device, dtype=torch.float32) - KERNEL // 2
    weights = torch.exp(-0.5 * (tap / sigma.clamp(min=1e-3)[:, None]) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur (n, M, S, S) with σ (n,) pixels each; crops with σ = 0 are unchanged."""
    if images.device.type == "cpu":
        return _blur_each(images, sigma)
    matrix = blur_matrices(sigma, images.shape[-1])[:, None]
    return matrix @ images @ matrix.transpose(2, 3)


def _blur_each(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Without a GPU: nine shifted sums cost a third of the matrix product; half of the crops have σ = 0."""
    blurred, reach, size = images.clone(), KERNEL // 2, images.shape[-1]
    taps = _tap_weights(sigma).tolist()
    for row in sigma.nonzero()[:, 0].tolist():
        crop = functional.pad(images[row], (reach,) * 4, mode="reflect")
        for axis in (1, 2):
            crop = sum(crop.narrow(axis, k, size) * weight for k, weight in enumerate(taps[row]))
        blurred[row] = crop
    return blurred
