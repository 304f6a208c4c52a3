"""Block masks for iBOT, for every crop at once.

BEiT's rule (Bao et al., 2021; used by iBOT and DINOv2): rectangles of random area and aspect are laid until a
wanted number of patches is covered. Here all candidate rectangles are drawn at once, each patch is ranked by
the first rectangle that covers it (and by its place within that one), and the first patches of that order are
masked: no loop, and exactly the wanted number.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from prostate_ssl.augment.settings import AugmentationSettings
from prostate_ssl.randomness import Draw, host_permutation, host_uniform, uniform

CANDIDATES = 16
LEAST_AREA = 4.0
ASPECT = (0.3, 1.0 / 0.3)


def masked_patch_targets(
    settings: AugmentationSettings, seed: int, step: int, global_batch: int
) -> np.ndarray:
    """How many patches of each global crop get masked.

    Of the G · global_batch crops of a step a share `mask_sample_probability` is masked; their ratios are
    spread evenly over `mask_ratio_min_max`, one in each of equal intervals. The crops of the whole step are
    drawn together, so that the result does not depend on the number of GPUs. The masked crops are spread
    evenly over the cases (drawn by lot among the G crops of a case), so that n cases in a row never have
    more than ⌈G · n · mask_sample_probability⌉: a bound for every rank that knows no other rank.

    Returns:
        (G, global_batch) int64, 0 where nothing is masked.
    """
    kinds = settings.global_crops_number
    masked = int(kinds * global_batch * settings.mask_sample_probability)
    low, high = settings.mask_ratio_min_max
    edges = np.linspace(low, high, masked + 1)
    draws = host_uniform(seed, step, int(Draw.MASKED_CROPS), np.arange(masked))
    ratio = edges[:-1] + (edges[1:] - edges[:-1]) * draws
    ratio = ratio[host_permutation(masked, seed, step, int(Draw.MASKED_CROPS), -1)]
    share = np.arange(global_batch + 1) * masked // global_batch
    lots = host_uniform(seed, step, int(Draw.MASKED_CROPS), -2, np.arange(kinds * global_batch))
    place = lots.reshape(kinds, global_batch).argsort(axis=0).argsort(axis=0)
    targets = np.zeros((kinds, global_batch), dtype=np.int64)
    targets[place < np.diff(share)] = (settings.patches * ratio).astype(np.int64)
    return targets


def block_masks(draws: torch.Tensor, targets: torch.Tensor, side: int) -> torch.Tensor:
    """Masks of rectangular blocks.

    Args:
        draws: (n, 64) uniform numbers.
        targets: (n,) int64 patches to mask, 0 … side².
        side: patches along one side of the crop.

    Returns:
        (n, side²) bool, row-major, with exactly `targets` True a row.
    """
    draws = draws.unflatten(1, (4, CANDIDATES))
    most = targets.to(torch.float32)[:, None].clamp(min=LEAST_AREA)
    area = LEAST_AREA + (most - LEAST_AREA) * draws[:, 0]
    low, span = math.log(ASPECT[0]), math.log(ASPECT[1]) - math.log(ASPECT[0])
    aspect = torch.exp(low + span * draws[:, 1])
    height = torch.sqrt(area * aspect).round().clamp(1, side)
    width = torch.sqrt(area / aspect).round().clamp(1, side)
    top = (draws[:, 2] * (side - height + 1)).floor()
    left = (draws[:, 3] * (side - width + 1)).floor()
    place = torch.arange(side, device=draws.device, dtype=torch.float32)
    in_rows = (place >= top[..., None]) & (place < (top + height)[..., None])
    in_columns = (place >= left[..., None]) & (place < (left + width)[..., None])
    covered = (in_rows[..., :, None] & in_columns[..., None, :]).flatten(2)
    first = torch.where(covered.any(dim=1), covered.to(torch.int8).argmax(dim=1), CANDIDATES)
    # Within a block row by row: a block that is cut short stays a block.
    order = first * (side * side) + torch.arange(side * side, device=draws.device)
    rank = order.argsort(dim=1).argsort(dim=1)
    return rank < targets[:, None]


def crop_masks(
    settings: AugmentationSettings, keys: torch.Tensor, targets: torch.Tensor, present: torch.Tensor
) -> torch.Tensor:
    """Masks of the global crops, modality by modality.

    Args:
        keys: (G, B) int64, not those of the crops' other draws.
        targets: (G, B) int64 from `masked_patch_targets`.
        present: (B, M) bool; absent modalities are not masked: there is nothing to predict.

    Returns:
        (G * B, M, N) bool, crop-major. With `mask_per_channel` each modality has its own blocks, and with
        `mask_whole_modality` one of the present ones (of two or more) is masked as a whole.
    """
    crops, modalities = keys.numel(), present.shape[1]
    side = settings.global_crops_size // settings.patch_size
    table = uniform(keys.flatten(), 4 * CANDIDATES * modalities + modalities)
    blocks, lot = table[:, :-modalities], table[:, -modalities:]
    there = present.repeat(keys.shape[0], 1)
    wanted = targets.flatten()
    if not settings.mask_per_channel:
        masks = block_masks(blocks[:, : 4 * CANDIDATES], wanted, side)[:, None].expand(-1, modalities, -1)
        return masks & there[..., None]
    own = blocks.reshape(crops * modalities, 4 * CANDIDATES)
    masks = block_masks(own, wanted.repeat_interleave(modalities), side).unflatten(0, (crops, modalities))
    if settings.mask_whole_modality:
        lot = lot.masked_fill(~there, -1.0)
        whole = lot.argmax(dim=1, keepdim=True) == torch.arange(modalities, device=keys.device)
        whole = whole & (there.sum(dim=1, keepdim=True) > 1)
        masks = masks | whole[..., None]
    return masks & there[..., None]
