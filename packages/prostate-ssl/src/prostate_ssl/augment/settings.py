"""The published crop and mask keys, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

from prostate_ssl.errors import ProstateError

INTENSITY_AUGMENTATIONS = ("rc", "color_jittering", "bspline", "histogram", "none")


@dataclass(frozen=True)
class AugmentationSettings:
    """How crops and masks are made. Names are those of the configuration.

    Attributes:
        global_crops_size, local_crops_size: sides in pixels, multiples of the patch.
        global_crops_number: always 2 in DINO.
        local_crops_number: local crops per case.
        global_crops_scale, local_crops_scale: of the slice. With the foreground crop a share of each side,
            otherwise a share of the area (as published).
        intensity_aug: rc (random convolution), color_jittering, bspline, histogram or none.
        bias_field: standard deviation of the logarithm of a random smooth gain, a field for each crop and
            modality; 0 for none (as published).
        max_blur_radius: largest σ of the Gaussian blur, pixels.
        gamma_range: of the second global crop.
        crop_from_tumor_foreground: crops are centred on a random pixel of the gland.
        append_label_mask: the gland mask is one more channel of every crop.
        resize_before_crop: percentiles per slice and a resize to the global crop's side before the crop.
        patch_size: side of a patch in pixels.
        mask_sample_probability: share of the global crops that get block masks.
        mask_ratio_min_max: masked share of the patches in such a crop.
        mask_per_channel: every modality has its own mask.
        mask_whole_modality: with mask_per_channel, one whole modality per global crop is masked as well.
    """

    global_crops_size: int = 224
    local_crops_size: int = 112
    global_crops_number: int = 2
    local_crops_number: int = 8
    global_crops_scale: tuple[float, float] = (0.5, 1.0)
    local_crops_scale: tuple[float, float] = (0.2, 0.5)
    intensity_aug: str = "rc"
    bias_field: float = 0.0
    max_blur_radius: float = 1.0
    gamma_range: tuple[float, float] = (0.75, 1.5)
    crop_from_tumor_foreground: bool = True
    append_label_mask: bool = False
    resize_before_crop: bool = False
    patch_size: int = 14
    mask_sample_probability: float = 0.5
    mask_ratio_min_max: tuple[float, float] = (0.1, 0.5)
    mask_per_channel: bool = True
    mask_whole_modality: bool = True

    def __post_init__(self) -> None:
        if self.intensity_aug not in INTENSITY_AUGMENTATIONS:
            raise ProstateError(
                f"crops.intensity_aug={self.intensity_aug} is unknown; choose one of "
                f"{', '.join(INTENSITY_AUGMENTATIONS)}.",
                exit_code=2,
            )
        for name in ("global_crops_size", "local_crops_size"):
            self._check_side(name, getattr(self, name))
        for name in ("global_crops_scale", "local_crops_scale", "mask_ratio_min_max"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high <= 1.0:
                raise ProstateError(
                    f"{name}={low}, {high} should be two shares with 0 < low ≤ high ≤ 1.", exit_code=2
                )
        if not 0.0 <= self.bias_field <= 2.0:
            raise ProstateError(f"bias_field={self.bias_field} should lie between 0 and 2.", exit_code=2)
        if not 0.0 < self.gamma_range[0] <= self.gamma_range[1]:
            raise ProstateError(
                f"crops.gamma_range={self.gamma_range} should be two positive numbers.", exit_code=2
            )

    def _check_side(self, name: str, side: int) -> None:
        if side <= 0 or side % self.patch_size:
            below = max(self.patch_size, side // self.patch_size * self.patch_size)
            raise ProstateError(
                f"crops.{name}={side} is no multiple of the patch size {self.patch_size}; the nearest are "
                f"{below} and {below + self.patch_size}.",
                exit_code=2,
            )

    @property
    def patches(self) -> int:
        """Patches of a global crop, N."""
        return (self.global_crops_size // self.patch_size) ** 2
