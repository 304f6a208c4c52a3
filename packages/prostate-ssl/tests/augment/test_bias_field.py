"""The random gain: its strength, its smoothness, and that nobody who leaves it out sees a change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prostate_ssl.augment.bias_field import TERMS, _basis, bias_columns, bias_field
from prostate_ssl.augment.draws import draw_crops
from prostate_ssl.augment.pipeline import CropAugmenter
from prostate_ssl.augment.planes import Planes
from prostate_ssl.augment.settings import AugmentationSettings
from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError

SMALL = AugmentationSettings(
    global_crops_size=56,
    local_crops_size=28,
    local_crops_number=2,
    intensity_aug="none",
    gamma_range=(1.0, 1.0),
    crop_from_tumor_foreground=False,
)


def gains(strength: float, modalities: int = 3, count: int = 400) -> torch.Tensor:
    """log of what a field multiplies by, (count, modalities, 56, 56)."""
    draws = draw_crops(torch.arange(count) * 7919, bias_columns(modalities))
    grey = torch.full((count, modalities, 56, 56), 0.01)
    return torch.log(bias_field(grey, draws, strength) / 0.01)


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_the_strength_is_the_standard_deviation_of_the_logarithm(strength: float) -> None:
    field = gains(strength)
    assert field.mean().abs() < 0.05 * strength
    assert field.std().item() == pytest.approx(strength, rel=0.05)


def test_each_modality_has_a_smooth_field_of_its_own() -> None:
    field = gains(0.3)
    middle = field[:, :, 28, 28]
    assert np.abs(np.corrcoef(middle.T.numpy()) - np.eye(3)).max() < 0.2
    # A cubic has no fourth difference.
    assert torch.diff(field, n=4, dim=-1).abs().max() < 1e-4


def test_the_polynomials_are_orthonormal_over_the_crop() -> None:
    basis = _basis(512, torch.device("cpu")).flatten(1)
    assert torch.allclose(basis @ basis.T / basis.shape[1], torch.eye(TERMS), atol=1e-3)


def planes() -> Planes:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 4, 64, 64, generator=generator)
    pixels[:, :, :, :20] = 0.0
    return Planes(
        pixels=pixels,
        extent=torch.tensor([[64, 64]] * 2),
        present=torch.tensor([[True, True, True], [True, False, True]]),
        keys=torch.tensor([11, 12]),
        mask_targets=torch.zeros(2, 2, dtype=torch.long),
    )


def test_air_is_left_alone() -> None:
    images = torch.tensor([0.0, 5e-5, 0.2, 1.0]).repeat(8, 2, 4, 1)
    changed = bias_field(images, draw_crops(torch.arange(8), bias_columns(2)), 1.0)
    assert torch.equal(changed[..., :2], images[..., :2])
    assert not torch.equal(changed[..., 2], images[..., 2])
    assert changed.max() <= 1.0


def test_air_and_absent_modalities_stay_zero_and_the_rest_changes() -> None:
    plain, _, _ = CropAugmenter(SMALL)(planes())
    changed, small, _ = CropAugmenter(replace(SMALL, bias_field=0.4))(planes())
    # Blur, which comes after, moves a few pixels over the border of what counts as air.
    assert ((plain == 0) != (changed == 0)).float().mean() < 0.01
    assert changed[1::2, 1].abs().max() == 0  # the second case lacks its second modality
    assert (plain - changed).abs().mean() > 0.1
    assert torch.isfinite(small).all()


def test_other_draws_do_not_move_when_it_is_switched_on() -> None:
    keys = torch.tensor([5, 6])
    width = draw_crops(keys).table.shape[-1]
    assert torch.equal(draw_crops(keys, bias_columns(3)).table[..., :width], draw_crops(keys).table)


def test_it_is_off_as_published_and_refuses_nonsense() -> None:
    assert load_config("demo").crops.bias_field == 0
    assert load_config("demo", ["crops.bias_field=0.3"]).crops.bias_field == 0.3
    with pytest.raises(ProstateError, match="bias_field"):
        load_config("demo", ["crops.bias_field=-1"])
    with pytest.raises(ProstateError, match="bias_field"):
        AugmentationSettings(bias_field=3.0)
