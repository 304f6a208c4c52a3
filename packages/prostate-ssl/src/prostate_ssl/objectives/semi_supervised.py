"""Cross-entropy of the labelled cases, class c standing at prototype c (MM-DINOv2, Scholz et al. 2025)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from prostate_ssl.objectives.collective import sum_over_ranks


def semi_supervised_loss(
    scores: torch.Tensor, labels: torch.Tensor, *, classes: int, temperature: float, label_smoothing: float
) -> torch.Tensor:
    """Weighted cross-entropy of all crops of the labelled cases, times the labelled share of the batch.

    A class weighs log(labelled cases / cases of the class), as published: rare classes count more, and a
    batch of one class alone weighs nothing. The cases of all ranks are counted, so that the mean over the
    ranks is the loss of the joined batch.

    Args:
        scores: (S, B, K) student scores of S crops, K ≥ classes.
        labels: (B,) int64, −1 for cases without a label.
        classes: number of classes.
        temperature: the scores are divided by it.
        label_smoothing: share of the target that is spread over all classes.

    Returns:
        Scalar float32; 0 if no case of the batch has a label.
    """
    labelled = labels >= 0
    onehot = F.one_hot(labels.clamp(min=0), classes).float() * labelled.unsqueeze(-1)
    of_class = sum_over_ranks(onehot.sum(0))
    weight = (of_class.sum().clamp(min=1) / of_class.clamp(min=1e-6)).log() * (of_class > 0)
    target = onehot * (1 - label_smoothing) + labelled.unsqueeze(-1) * (label_smoothing / classes)
    log_probability = (scores[..., :classes].float() / temperature).log_softmax(-1)
    per_case = -(target * weight * log_probability).sum(-1)
    return per_case.sum(-1).mean() / len(labels)
