"""iBOT masks: counts, blocks, modalities."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from prostate_ssl.augment.masks import block_masks, crop_masks, masked_patch_targets
from prostate_ssl.augment.settings import AugmentationSettings
from prostate_ssl.objectives import masked_token_bound
from prostate_ssl.randomness import uniform


def test_exactly_the_wanted_number_is_masked() -> None:
    targets = torch.arange(0, 257)
    masks = block_masks(uniform(torch.arange(257), 64), targets, 16)
    assert torch.equal(masks.sum(dim=1), targets)


def test_masks_are_blocks_not_noise() -> None:
    masks = block_masks(uniform(torch.arange(200), 64), torch.full((200,), 80), 16).view(200, 16, 16).numpy()
    pieces = [ndimage.label(mask)[1] for mask in masks]
    noise = np.random.default_rng(0).permuted(masks.reshape(200, -1), axis=1).reshape(masks.shape)
    assert np.mean(pieces) < 4 < np.mean([ndimage.label(mask)[1] for mask in noise])


def test_targets_follow_ratio_and_share_and_not_the_number_of_ranks() -> None:
    settings = AugmentationSettings()
    targets = masked_patch_targets(settings, seed=1, step=5, global_batch=16)
    assert targets.shape == (2, 16) and (targets > 0).sum() == 16
    masked = np.sort(targets[targets > 0]) / settings.patches
    assert masked.min() >= 0.09 and masked.max() <= 0.5
    edges = np.linspace(0.1, 0.5, 17)
    assert all(
        low - 1 / 256 <= value <= high for value, low, high in zip(masked, edges, edges[1:], strict=False)
    )
    assert np.array_equal(targets, masked_patch_targets(settings, 1, 5, 16))
    assert not np.array_equal(targets, masked_patch_targets(settings, 1, 6, 16))


def test_every_ranks_masked_patches_stay_within_the_bound_of_one_rank() -> None:
    for share in (0.0, 0.3, 0.5, 0.8, 1.0):
        settings = AugmentationSettings(mask_sample_probability=share)
        for batch, ranks in ((1, 3), (2, 4), (3, 2), (8, 1), (8, 4)):
            bound = masked_token_bound(
                2 * batch, 3, settings.patches, sample_probability=share, ratio_max=0.5, whole_modality=True
            )
            for step in range(20):
                targets = masked_patch_targets(settings, 0, step, batch * ranks)
                assert (targets > 0).sum() == int(2 * batch * ranks * share)
                own = targets.reshape(2, ranks, batch).sum(axis=(0, 2))
                assert 2 * batch * settings.patches + 2 * own.max() <= bound


def _masks(settings: AugmentationSettings, present: torch.Tensor) -> torch.Tensor:
    keys = torch.arange(2 * present.shape[0]).view(2, -1)
    return crop_masks(settings, keys, torch.full(keys.shape, 60), present)


def test_one_mask_for_all_modalities_without_mask_per_channel() -> None:
    masks = _masks(AugmentationSettings(mask_per_channel=False), torch.ones(4, 3, dtype=torch.bool))
    assert (masks == masks[:, :1]).all() and (masks.sum(dim=2) == 60).all()


def test_own_masks_and_one_whole_modality() -> None:
    masks = _masks(AugmentationSettings(), torch.ones(4, 3, dtype=torch.bool))
    assert ((masks.all(dim=2)).sum(dim=1) == 1).all()
    own = _masks(AugmentationSettings(mask_whole_modality=False), torch.ones(4, 3, dtype=torch.bool))
    assert (own.sum(dim=2) == 60).all() and (own[:, 0] != own[:, 1]).any()


def test_absent_modalities_are_not_masked_and_a_single_one_never_wholly() -> None:
    present = torch.tensor([[True, False, True], [False, True, False]])
    masks = _masks(AugmentationSettings(), present)
    there = present.repeat(2, 1)
    assert not masks[~there].any()
    assert (masks[1, 1].sum() == 60) and (masks[0].all(dim=1).sum() == 1)
