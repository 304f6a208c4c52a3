"""Gaussian blur of a batch, each crop with its own σ."""

from __future__ import annotations

import torch

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
    reach = KERNEL // 2
    tap = torch.arange(-reach, reach + 1, device=sigma.device, dtype=torch.float32)
    weights = torch.exp(-0.5 * (tap / sigma.clamp(min=1e-3)[:, None]) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    pixel = torch.arange(size, device=sigma.device)
    source = pixel[:, None] + tap.to(torch.int64)
    source = torch.where(source < 0, -source, source)
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    matrix = torch.zeros(sigma.shape[0], size, size, device=sigma.device)
    return matrix.scatter_add_(
        2, source.expand(sigma.shape[0], -1, -1), weights[:, None].expand(-1, size, -1)
    )


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur (n, M, S, S) with σ (n,) pixels each; crops with σ = 0 are unchanged."""
    if images.device.type == "cpu":
        # Half of the crops have σ = 0. On a GPU, where shapes must not depend on the draws, all are blurred.
        rows = sigma.nonzero()[:, 0]
        return images.index_copy(0, rows, _blur(images[rows], sigma[rows])) if len(rows) else images
    return _blur(images, sigma)


def _blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    matrix = blur_matrices(sigma, images.shape[-1])[:, None]
    return matrix @ images @ matrix.transpose(2, 3)
