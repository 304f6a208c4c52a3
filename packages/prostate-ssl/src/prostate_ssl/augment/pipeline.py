"""The whole augmentation: planes of B cases in, normalised crops and masks out."""

from __future__ import annotations

import torch

from prostate_ssl.augment.bias_field import bias_columns, bias_field
from prostate_ssl.augment.blur import LEAST_SIGMA, gaussian_blur
from prostate_ssl.augment.boxes import foreground_boxes, random_boxes, random_gland_pixel, window_room
from prostate_ssl.augment.convolution import random_convolution
from prostate_ssl.augment.draws import BLUR, BOX, CENTRE, FLIP, GAMMA, CropDraws, draw_crops
from prostate_ssl.augment.intensity import bspline, color_jitter, gamma, histogram_shift
from prostate_ssl.augment.masks import crop_masks
from prostate_ssl.augment.planes import Planes, is_air
from prostate_ssl.augment.published import slices_as_published
from prostate_ssl.augment.resize import resize_windows
from prostate_ssl.augment.settings import AugmentationSettings
from prostate_ssl.randomness import fold

PIXEL_MEAN = 0.45
PIXEL_STD = 0.22
FLIP_PROBABILITY = 0.5
BLUR_PROBABILITY = (1.0, 0.1)
"""Of the first and of the second global crop (DINO, Caron et al. 2021)."""
LOCAL_BLUR_PROBABILITY = 0.5


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(x - 0.45) / 0.22, and 0 where x is air: the background stays zero (as published)."""
    return ((images - PIXEL_MEAN) / PIXEL_STD).masked_fill(is_air(images), 0.0)


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
        if settings.resize_before_crop:
            planes = slices_as_published(planes, settings.global_crops_size)
        globals_, locals_ = settings.global_crops_number, settings.local_crops_number
        numbers = torch.arange(1, 2 * globals_ + locals_ + 1, device=planes.keys.device)
        keys = fold(planes.keys[None], numbers[:, None])
        columns = bias_columns(planes.present.shape[1]) if settings.bias_field else 0
        draws = draw_crops(keys[: globals_ + locals_], columns)
        boxes = self._boxes(planes, draws, globals_)
        index = torch.arange(planes.keys.shape[0], device=planes.keys.device)
        global_crops = self._crops(
            planes,
            CropDraws(draws.table[:globals_].flatten(0, 1)),
            (boxes[0].flatten(0, 1), index.repeat(globals_)),
            (settings.global_crops_scale, settings.global_crops_size),
            BLUR_PROBABILITY,
        )
        local_crops = self._crops(
            planes,
            CropDraws(draws.table[globals_:].flatten(0, 1)),
            (boxes[1].flatten(0, 1), index.repeat(locals_)),
            (settings.local_crops_scale, settings.local_crops_size),
            (LOCAL_BLUR_PROBABILITY,),
        )
        masks = crop_masks(settings, keys[globals_ + locals_ :], planes.mask_targets, planes.present)
        return global_crops, local_crops, masks

    def _boxes(self, planes: Planes, draws: CropDraws, globals_: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes of the global (G, B, 4) and of the local crops (L, B, 4)."""
        scales = (self.settings.global_crops_scale, self.settings.local_crops_scale)
        parts = (draws.of(BOX)[:globals_], draws.of(BOX)[globals_:])
        if not self.settings.crop_from_tumor_foreground:
            first, second = (random_boxes(planes.extent, d, s) for d, s in zip(parts, scales, strict=True))
            return first, second
        row, column = random_gland_pixel(planes.pixels[:, -1] > 0.5, planes.extent, draws.one(CENTRE))
        centres = ((row[:globals_], column[:globals_]), (row[globals_:], column[globals_:]))
        first, second = (
            foreground_boxes(c, planes.extent, d, s) for c, d, s in zip(centres, parts, scales, strict=True)
        )
        return first, second

    def _crops(
        self,
        planes: Planes,
        draws: CropDraws,
        boxes: tuple[torch.Tensor, torch.Tensor],
        shape: tuple[tuple[float, float], int],
        blur_probability: tuple[float, ...],
    ) -> torch.Tensor:
        """n crops of one kind; `boxes` are (n, 4) and the plane of each (n,), `shape` scale and side."""
        batch = planes.keys.shape[0]
        channels = None if self.settings.append_label_mask else planes.present.shape[1]
        height, width = planes.pixels.shape[2:]
        room = window_room((height, width), shape[0], self.settings.crop_from_tumor_foreground)
        flip = draws.one(FLIP) < FLIP_PROBABILITY
        cut = resize_windows(planes.pixels[:, :channels], boxes[1], boxes[0], flip, room, shape[1])
        present = planes.present[boxes[1]]
        images = cut[:, : present.shape[1]].clamp(0.0, 1.0)
        if self.settings.bias_field:
            images = bias_field(images, draws, self.settings.bias_field)
        images = self._change_intensity(images, draws, present)
        images = self._blur(images, draws, blur_probability, batch)
        if len(blur_probability) == 2:
            images = self._change_gamma(images, draws, batch)
        images = normalise(images) * present[:, :, None, None]
        if self.settings.append_label_mask:
            images = torch.cat([images, (cut[:, -1:] > 0.5).float()], dim=1)
        return images

    def _change_intensity(
        self, images: torch.Tensor, draws: CropDraws, present: torch.Tensor
    ) -> torch.Tensor:
        name = self.settings.intensity_aug
        if name == "rc":
            return random_convolution(images, draws, present)
        if name == "color_jittering":
            return color_jitter(images, draws)
        if name == "bspline":
            return bspline(images, draws)
        if name == "histogram":
            return histogram_shift(images, draws)
        return images

    def _blur(
        self, images: torch.Tensor, draws: CropDraws, probability: tuple[float, ...], batch: int
    ) -> torch.Tensor:
        largest = max(self.settings.max_blur_radius, LEAST_SIGMA)
        chance_draw, size_draw = draws.of(BLUR).unbind(dim=-1)
        # The second global crop's blur does not follow max_blur_radius (as published).
        first = torch.arange(images.shape[0], device=images.device) < batch
        second = ~first & (len(probability) == 2)
        radius = torch.where(second, 1.0, largest)
        chance = torch.where(second, probability[-1], probability[0])
        sigma = LEAST_SIGMA + (radius - LEAST_SIGMA) * size_draw
        return gaussian_blur(images, torch.where(chance_draw < chance, sigma, torch.zeros_like(sigma)))

    def _change_gamma(self, images: torch.Tensor, draws: CropDraws, batch: int) -> torch.Tensor:
        low, high = self.settings.gamma_range
        draw = draws.one(GAMMA)[batch:]
        return torch.cat([images[:batch], gamma(images[batch:], low + (high - low) * draw)])
