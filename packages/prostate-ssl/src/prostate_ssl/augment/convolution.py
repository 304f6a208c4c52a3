"""GIN: global intensity non-linear augmentation by a shallow random network.

Ouyang et al., "Causality-inspired single-source domain generalization for medical image segmentation"
(IEEE TMI 2022): four convolutions with N(0, 1) weights and leaky ReLUs between them, each with a kernel of
1 or 3 by chance, mixed with the image by a random share α ~ U(0, 1). One network a crop, the same for all its
modalities. The output is brought to 0–1 over the crop (min–max) before the mixing.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from prostate_ssl.augment.draws import CONVOLUTION, MIXING, POINTWISE, CropDraws, to_normal
from prostate_ssl.augment.planes import is_air

HIDDEN = 4
LAYERS = 4
_NEGATIVE_SLOPE = 0.01
_CHANNELS = (1, *([HIDDEN] * (LAYERS - 1)), 1)


def random_kernels(draws: CropDraws) -> list[torch.Tensor]:
    """Weights of the random networks.

    Args:
        draws: of n crops.

    Returns:
        LAYERS tensors (n, out, in, 3, 3) float32; a kernel of size 1 has zeros around its centre.
    """
    sizes = [_CHANNELS[layer] * _CHANNELS[layer + 1] * 9 for layer in range(LAYERS)]
    numbers = to_normal(draws.of(CONVOLUTION)).split(sizes, dim=-1)
    pointwise = draws.of(POINTWISE) < 0.5
    # (Not by assignment: a scalar assigned on a GPU is a copy from the host, which a CUDA graph refuses.)
    centre = (torch.arange(9, device=pointwise.device) == 4).view(3, 3)
    kernels = []
    for layer, weights in enumerate(numbers):
        weights = weights.reshape(-1, _CHANNELS[layer + 1], _CHANNELS[layer], 3, 3)
        drop = pointwise[:, layer, None, None, None, None] & ~centre
        kernels.append(weights.masked_fill(drop, 0.0))
    return kernels


def apply_network(images: torch.Tensor, kernels: list[torch.Tensor]) -> torch.Tensor:
    """Pass each crop through its own network: images (n, M, S, S) in 0–1 → (n, M, S, S) of any range."""
    # The border is held once for all layers; each then takes one pixel off again.
    padded = functional.pad((images - 0.5) * 2.0, (LAYERS, LAYERS, LAYERS, LAYERS), mode="replicate")
    if images.device.type == "cpu":
        # Grouped convolutions have no fast path on the CPU: crop by crop is seven times quicker there.
        return torch.stack([_network_of_one(padded[row], kernels, row) for row in range(images.shape[0])])
    n = images.shape[0]
    # Modalities are the batch and crops the groups: one grouped convolution a layer serves every crop.
    x = padded.transpose(0, 1)
    for layer, weights in enumerate(kernels):
        x = functional.conv2d(x, weights.flatten(0, 1), groups=n)
        if layer + 1 < len(kernels):
            x = functional.leaky_relu(x, _NEGATIVE_SLOPE)
    return x.transpose(0, 1)


def _network_of_one(padded: torch.Tensor, kernels: list[torch.Tensor], row: int) -> torch.Tensor:
    """One crop's network on its modalities: (M, S + 8, S + 8) → (M, S, S)."""
    x = padded[:, None]
    for layer, weights in enumerate(kernels):
        own = weights[row]
        centre = own[:, :, 1, 1]
        if own.count_nonzero() == centre.count_nonzero():
            # Half of the layers have kernels of 1: a small matrix product instead of nine times the work.
            inner = x[..., 1:-1, 1:-1]
            x = (centre @ inner.flatten(2)).unflatten(2, inner.shape[-2:])
        else:
            x = functional.conv2d(x, own)
        if layer + 1 < len(kernels):
            x = functional.leaky_relu_(x, _NEGATIVE_SLOPE)
    return x[:, 0]


def random_convolution(images: torch.Tensor, draws: CropDraws, present: torch.Tensor) -> torch.Tensor:
    """GIN for n crops; air and absent modalities stay as they are.

    Args:
        images: (n, M, S, S) float32 in 0–1.
        draws: of n crops.
        present: (n, M) bool; absent modalities do not take part in the min–max.
    """
    if not len(images):
        return images
    changed = apply_network(images, random_kernels(draws))
    there = present[:, :, None, None]
    infinity = float("inf")
    low = changed.masked_fill(~there, infinity).amin(dim=(1, 2, 3), keepdim=True)
    high = changed.masked_fill(~there, -infinity).amax(dim=(1, 2, 3), keepdim=True)
    changed = (changed - low) / (high - low).clamp(min=1e-6)
    alpha = draws.of(MIXING)[:, :, None, None]
    return torch.where(is_air(images), images, alpha * changed + (1.0 - alpha) * images)
