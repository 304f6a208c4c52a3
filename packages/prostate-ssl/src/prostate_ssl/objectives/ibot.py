"""iBOT: the student predicts what the teacher says about patches hidden from it (Zhou et al. 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MaskedTokens:
    """The masked patches of a batch of crops, in a list of fixed length, so that shapes never change.

    Attributes:
        index: (L,) int64, positions in the flattened (crops · M · N) patches; padding points anywhere.
        valid: (L,) bool, False for padding.
        weight: (L,) float32, 1 / number of masked patches of the token's crop; 0 for padding.
        crops: number of crops.
        count: scalar int64 tensor, masked patches in the batch (more than L means a wrong bound).
    """

    index: torch.Tensor
    valid: torch.Tensor
    weight: torch.Tensor
    crops: int
    count: torch.Tensor


def masked_token_bound(
    crops: int,
    modalities: int,
    patches: int,
    *,
    sample_probability: float,
    ratio_max: float,
    whole_modality: bool,
) -> int:
    """The most patches that a rank's crops can have masked, whatever the number of ranks.

    A share of the crops (`sample_probability`) get at most `ratio_max` of the patches of each modality,
    evenly spread over the cases (`masked_patch_targets`); with `whole_modality`, every crop has one modality
    masked in full. It is a bound, not an estimate.
    """
    blocks = math.ceil(crops * sample_probability)
    per_modality = int(patches * ratio_max)
    if not whole_modality:
        return min(blocks * modalities * per_modality, crops * modalities * patches)
    return crops * patches + blocks * (modalities - 1) * per_modality


def select_masked(masks: torch.Tensor, bound: int) -> MaskedTokens:
    """List the masked patches without waiting for the GPU to say how many there are.

    Args:
        masks: (crops, M, N) bool.
        bound: L, at least the number of True.
    """
    crops = masks.shape[0]
    flat = masks.flatten()
    bound = max(1, min(bound, flat.numel()))
    # Stable: masked patches first, in their order. The list is short, so sorting costs microseconds.
    index = torch.sort(flat.to(torch.uint8), descending=True, stable=True).indices[:bound]
    valid = flat[index]
    per_crop = masks.flatten(1).sum(1).clamp(min=1)
    weight = valid / per_crop[index // (flat.numel() // crops)]
    return MaskedTokens(index, valid, weight, crops, flat.sum())


def ibot_patch_loss(
    student: torch.Tensor,
    targets: torch.Tensor,
    weight: torch.Tensor,
    crops: int,
    temperature: float = 0.1,
) -> torch.Tensor:
    """Cross-entropy at masked patches (eq. 2 of the paper), averaged within each crop, then over all crops.

    Args:
        student: (L, K) scores of the listed patches.
        targets: (L, K) teacher distributions, rows summing to one where valid; no gradient.
        weight: (L,) 1 / number of masked patches of the patch's crop, 0 for padding (`MaskedTokens.weight`).
        crops: number of crops; those without masks count as zero, as published.
        temperature: τ of the student.

    Returns:
        Scalar float32.
    """
    logits = student.float() / temperature
    entropy = logits.logsumexp(-1) * targets.sum(-1) - (logits * targets).sum(-1)
    return (entropy * weight).sum() / crops
