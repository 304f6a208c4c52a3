"""Each objective against its paper's equation, written out in float64, with gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from prostate_ssl.objectives import (
    RunningCenter,
    dino_loss,
    ibot_patch_loss,
    koleo_loss,
    masked_token_bound,
    select_masked,
    semi_supervised_loss,
    sinkhorn_knopp,
)


def compare(
    ours: torch.Tensor, ours_input: torch.Tensor, direct: torch.Tensor, direct_input: torch.Tensor
) -> None:
    """Equal values and gradients up to float32 rounding."""
    assert abs(ours.item() - direct.item()) <= 2e-6 * max(1, abs(direct.item()))
    (got,) = torch.autograd.grad(ours, ours_input)
    (wanted,) = torch.autograd.grad(direct, direct_input)
    assert (got.double() - wanted).norm() <= 1e-5 * wanted.norm()


def both(*shape: int, seed: int = 0, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return x.clone().requires_grad_(), x.double().requires_grad_()


def test_dino_is_the_mean_cross_entropy_of_all_pairs():
    student, student64 = both(3, 5, 11, scale=0.3)
    targets = torch.randn(2, 5, 11).softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for s in range(3):
        for t in range(2):
            for case in range(5):
                p = torch.exp(student64[s, case] / 0.1)
                p = p / p.sum()
                total = total - (targets[t, case].double() * torch.log(p)).sum() / 5
    compare(dino_loss(student, targets), student, total, student64)


def test_ibot_averages_within_a_crop_and_then_over_crops():
    masks = torch.zeros(4, 2, 6, dtype=torch.bool)
    masks[0, 0, :3] = masks[1, 1, 2] = masks[3] = True  # crop 2 has none
    scores, scores64 = both(4, 2, 6, 9, scale=0.3)
    targets = torch.randn(4, 2, 6, 9).softmax(-1)
    direct = torch.zeros((), dtype=torch.float64)
    for crop in range(4):
        places = masks[crop].nonzero().tolist()
        for modality, place in places:
            row = scores64[crop, modality, place] / 0.1
            log_p = row - torch.log(torch.exp(row).sum())
            direct = direct - (targets[crop, modality, place].double() * log_p).sum() / len(places) / 4
    tokens = select_masked(masks, 30)
    flat = scores.flatten(0, 2)[tokens.index]
    chosen = torch.where(tokens.valid[:, None], targets.flatten(0, 2)[tokens.index], 0)
    compare(ibot_patch_loss(flat, chosen, tokens.weight, 4), scores, direct, scores64)
    assert tokens.count == masks.sum()


@pytest.mark.parametrize("whole_modality", [True, False])
def test_the_bound_holds_for_the_published_masks(whole_modality):
    crops, modalities, patches = 16, 3, 256
    bound = masked_token_bound(
        crops, modalities, patches, sample_probability=0.5, ratio_max=0.5, whole_modality=whole_modality
    )
    worst = torch.zeros(crops, modalities, patches, dtype=torch.bool)
    worst[:8, :, :128] = True
    if whole_modality:
        worst[:, 1] = True
    assert worst.sum() <= bound < crops * modalities * patches


def test_padding_of_the_token_list_changes_nothing():
    masks = torch.rand(4, 3, 16, generator=torch.Generator().manual_seed(1)) < 0.3
    scores, targets = torch.randn(4 * 3 * 16, 7), torch.randn(4 * 3 * 16, 7).softmax(-1)
    results = []
    for bound in (int(masks.sum()), 100, 192):
        tokens = select_masked(masks, bound)
        results.append(ibot_patch_loss(scores[tokens.index], targets[tokens.index], tokens.weight, 4))
    assert torch.allclose(results[0], results[1]) and torch.allclose(results[0], results[2])


def test_koleo_is_the_log_distance_to_the_nearest_neighbour():
    x, x64 = both(7, 5, seed=3)
    units = x64 / x64.norm(dim=1, keepdim=True)
    direct = torch.zeros((), dtype=torch.float64)
    for i in range(7):
        distances = [(units[i] - units[j]).norm() for j in range(7) if j != i]
        direct = direct - torch.log(torch.stack(distances).min()) / 7
    compare(koleo_loss(x), x, direct, x64)


def test_koleo_finds_the_neighbour_among_vectors_that_are_almost_equal():
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)) + 1e-3 * torch.randn(
        8, 64, generator=torch.Generator().manual_seed(1)
    )
    units = F.normalize(x.double(), dim=-1)
    apart = torch.cdist(units, units) + torch.eye(8) * 9
    assert float(koleo_loss(x)) == pytest.approx(float(-apart.amin(1).log().mean()), abs=1e-3)


def test_koleo_of_equal_vectors_is_finite_and_of_one_vector_zero():
    assert math.isfinite(koleo_loss(torch.ones(4, 8)))
    assert koleo_loss(torch.randn(1, 8)) == 0


def test_the_running_center_follows_its_recursion():
    center = RunningCenter((1, 6), momentum=0.9)
    c = torch.zeros(6, dtype=torch.float64)
    for step in range(4):
        scores = torch.randn(10, 6, generator=torch.Generator().manual_seed(step))
        targets = center.targets(scores, 0.05)
        center.settle()
        z = torch.exp((scores.double() - c) / 0.05)
        assert torch.allclose(targets.double(), z / z.sum(1, keepdim=True), atol=1e-5)
        c = 0.9 * c + 0.1 * scores.double().mean(0)
        assert torch.allclose(center.center[0].double(), c, atol=1e-6)


def test_padding_does_not_move_the_center():
    padded, plain = RunningCenter((1, 1, 5)), RunningCenter((1, 1, 5))
    scores = torch.randn(8, 5)
    padded.targets(torch.cat([scores, torch.full((3, 5), 99.0)]), 0.1, torch.tensor([True] * 8 + [False] * 3))
    plain.targets(scores, 0.1)
    [center.settle() for center in (padded, plain)]
    assert torch.allclose(padded.center, plain.center, atol=1e-6)
    before = plain.center.clone()
    plain.targets(scores, 0.1, torch.zeros(8, dtype=torch.bool))
    plain.settle()
    assert torch.equal(plain.center, before)


def test_sinkhorn_knopp_is_the_iteration_of_the_paper():
    scores = torch.randn(12, 5, generator=torch.Generator().manual_seed(2)) * 0.3
    q = torch.exp(scores.double().T / 0.05)  # K × B, as in the paper
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / 5
        q = q / q.sum(0, keepdim=True) / 12
    wanted = (q * 12).T
    got = sinkhorn_knopp(scores, 0.05)
    assert (got.double() - wanted).norm() <= 1e-5 * wanted.norm()
    assert torch.allclose(got.sum(1), torch.ones(12), atol=1e-5)


def test_sinkhorn_knopp_ignores_padding_and_survives_sharp_teachers():
    scores = torch.randn(9, 4)
    padded = torch.cat([scores, torch.randn(3, 4) * 9])
    valid = torch.tensor([True] * 9 + [False] * 3)
    got = sinkhorn_knopp(padded, 0.07, valid)
    assert torch.allclose(got[:9], sinkhorn_knopp(scores, 0.07), atol=1e-6)
    assert (got[9:] == 0).all()
    assert sinkhorn_knopp(scores * 60, 0.04).isfinite().all()


def test_semi_supervised_is_the_weighted_smoothed_cross_entropy():
    labels = torch.tensor([0, -1, 2, 2, 1, -1])
    scores, scores64 = both(4, 6, 3, scale=0.2)
    known = [i for i in range(6) if labels[i] >= 0]
    counts = [sum(int(labels[i]) == c for i in known) for c in range(3)]
    total = torch.zeros((), dtype=torch.float64)
    for crop in range(4):
        for i in known:
            log_p = torch.log_softmax(scores64[crop, i] / 0.1, 0)
            for c in range(3):
                t = 0.9 * (c == labels[i]) + 0.1 / 3
                total = total - math.log(len(known) / counts[c]) * t * log_p[c] / len(known) / 4
    total = total * len(known) / 6
    ours = semi_supervised_loss(scores, labels, classes=3, temperature=0.1, label_smoothing=0.1)
    compare(ours, scores, total, scores64)
    none = semi_supervised_loss(scores, torch.full((6,), -1), classes=3, temperature=0.1, label_smoothing=0.1)
    assert none == 0


@pytest.mark.parametrize("centring", ["sinkhorn_knopp", "centering"])
def test_a_batch_without_any_masked_patch_gives_no_loss_and_no_nan(centring):
    """With a small `mask_sample_probability` and a small batch, nothing may be masked."""
    masks = torch.zeros(4, 2, 6, dtype=torch.bool)
    tokens = select_masked(masks, 5)
    scores = torch.randn(len(tokens.index), 9, requires_grad=True)
    centre = RunningCenter((1, 1, 9))
    if centring == "sinkhorn_knopp":
        targets = sinkhorn_knopp(scores.detach() * 3, 0.04, tokens.valid)
    else:
        targets = centre.targets(scores.detach(), 0.04, tokens.valid)
        centre.settle()
    loss = ibot_patch_loss(scores, targets, tokens.weight, 4)
    loss.backward()
    assert loss.item() == 0 and scores.grad is not None and not scores.grad.any()
    assert not centre.center.any()
