"""The whole augmentation: planes of B cases in, normalised crops and masks out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prostate_ssl.augment.blur import LEAST_SIGMA, gaussian_blur
from prostate_ssl.augment.boxes import foreground_boxes, random_boxes, window_room
from prostate_ssl.augment.convolution import random_convolution
from prostate_ssl.augment.intensity import bspline, color_jitter, gamma, histogram_shift
from prostate_ssl.augment.masks import crop_masks
from prostate_ssl.augment.resize import resize_windows
from prostate_ssl.augment.settings import AugmentationSettings
from prostate_ssl.randomness import Draw, fold, uniform

PIXEL_MEAN = 0.45
PIXEL_STD = 0.22
FLIP_PROBABILITY = 0.5
BLUR_PROBABILITY = (1.0, 0.1)
"""Of the first and of the second global crop (DINO, Caron et al. 2021)."""
LOCAL_BLUR_PROBABILITY = 0.5


@dataclass(frozen=True)
class Planes:
    """One slice of every case of a batch, on the device.

    Attributes:
        pixels: (B, M + 1, H, W) float16 or float32; modalities in 0–1, last the gland mask; zeros beyond
            `extent`.
        extent: (B, 2) int64 valid (height, width).
        present: (B, M) bool.
        keys: (B,) int64, folded from (seed, epoch, case).
        mask_targets: (G, B) int64 patches to mask in each global crop.
    """

    pixels: torch.Tensor
    extent: torch.Tensor
    present: torch.Tensor
    keys: torch.Tensor
    mask_targets: torch.Tensor


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(x - 0.45) / 0.22 where x is not zero: the background stays zero (as published)."""
    return torch.where(images == 0, images, (images - PIXEL_MEAN) / PIXEL_STD)


class CropAugmenter:
    """Cuts, resizes and changes every crop of a batch at once, on the planes' device.

    Shapes depend on the settings and the planes' shape alone, and nothing is read back, so that one call can
    be captured as a CUDA graph.
    """

    def __init__(self, settings: AugmentationSettings) -> None:
        self.settings = settings

    def __call__(self, planes: Planes) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Augment one batch.

        Returns:
            global crops (G·B, M, S, S) float32, local crops (L·B, M, s, s) float32, masks (G·B, M, N) bool;
            all crop-major. With `append_label_mask` crops have M + 1 channels, the last 0 or 1.
        """
        settings = self.settings
        globals_ = settings.global_crops_number
        numbers = torch.arange(globals_ + settings.local_crops_number, device=planes.keys.device)
        keys = fold(planes.keys[None], numbers[:, None] + 1)
        global_keys, local_keys = keys[:globals_], keys[globals_:]
        global_crops = self._crops(
            planes, global_keys, settings.global_crops_scale, settings.global_crops_size, BLUR_PROBABILITY
        )
        local_crops = self._crops(
            planes,
            local_keys,
            settings.local_crops_scale,
            settings.local_crops_size,
            (LOCAL_BLUR_PROBABILITY,),
        )
        masks = crop_masks(settings, global_keys, planes.mask_targets, planes.present)
        return global_crops, local_crops, masks

    def _crops(
        self,
        planes: Planes,
        keys: torch.Tensor,
        scale: tuple[float, float],
        size: int,
        blur_probability: tuple[float, ...],
    ) -> torch.Tensor:
        kinds, batch = keys.shape
        flat = keys.flatten()
        cut = self._cut(planes, keys, scale, size)
        images, label = cut[:, :-1].clamp(0.0, 1.0), cut[:, -1:]
        images = self._change_intensity(images, flat, planes.present.repeat(kinds, 1))
        images = self._blur(images, flat, blur_probability, batch)
        if len(blur_probability) == 2:
            images = self._change_gamma(images, flat, batch)
        images = normalise(images) * planes.present.repeat(kinds, 1)[:, :, None, None]
        if self.settings.append_label_mask:
            images = torch.cat([images, (label > 0.5).float()], dim=1)
        return images

    def _cut(self, planes: Planes, keys: torch.Tensor, scale: tuple[float, float], size: int) -> torch.Tensor:
        kinds, batch = keys.shape
        foreground = self.settings.crop_from_tumor_foreground
        if foreground:
            boxes = foreground_boxes(planes.pixels[:, -1] > 0.5, planes.extent, keys, scale)
        else:
            boxes = random_boxes(planes.extent, keys, scale)
        flip = uniform(fold(keys, int(Draw.FLIP)), 1)[..., 0] < FLIP_PROBABILITY
        height, width = planes.pixels.shape[2:]
        room = window_room((height, width), scale, foreground)
        index = torch.arange(batch, device=keys.device).repeat(kinds)
        return resize_windows(planes.pixels, index, boxes.flatten(0, 1), flip.flatten(), room, size)

    def _change_intensity(
        self, images: torch.Tensor, keys: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        name = self.settings.intensity_aug
        if name == "rc":
            return random_convolution(images, keys, present)
        if name == "color_jittering":
            return color_jitter(images, keys)
        if name == "bspline":
            return bspline(images, keys)
        if name == "histogram":
            return histogram_shift(images, keys)
        return images

    def _blur(
        self, images: torch.Tensor, keys: torch.Tensor, probability: tuple[float, ...], batch: int
    ) -> torch.Tensor:
        largest = max(self.settings.max_blur_radius, LEAST_SIGMA)
        draws = uniform(fold(keys, int(Draw.BLUR)), 2)
        # The second global crop's blur does not follow max_blur_radius (as published).
        radius = torch.full_like(draws[:, 0], largest)
        chance = torch.full_like(radius, probability[0])
        if len(probability) == 2:
            radius[batch:], chance[batch:] = 1.0, probability[1]
        sigma = LEAST_SIGMA + (radius - LEAST_SIGMA) * draws[:, 1]
        return gaussian_blur(images, torch.where(draws[:, 0] < chance, sigma, torch.zeros_like(sigma)))

    def _change_gamma(self, images: torch.Tensor, keys: torch.Tensor, batch: int) -> torch.Tensor:
        low, high = self.settings.gamma_range
        draws = uniform(fold(keys[batch:], int(Draw.GAMMA)), 1)[:, 0]
        return torch.cat([images[:batch], gamma(images[batch:], low + (high - low) * draws)])
