"""DINO: the student's CLS token predicts the teacher's distribution over prototypes (Caron et al. 2021)."""

from __future__ import annotations

import torch


def dino_loss(student: torch.Tensor, targets: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """Cross-entropy H(t, s) = −Σ_k t_k log softmax(s / τ)_k (eq. 2), averaged over the batch.

    Every student crop is compared with every target view: the sum over all pairs of views is returned,
    so the caller divides by the number of pairs that it counts.

    Args:
        student: (S, B, K) scores of S views.
        targets: (V, B, K) teacher distributions of V views, rows summing to one; no gradient.
        temperature: τ of the student.

    Returns:
        Scalar float32.
    """
    logits = student.float() / temperature
    log_norm = logits.logsumexp(-1)
    # Σ_v Σ_s −t_v · log_softmax(s) without S·V cross-entropies: the targets are summed first.
    summed = targets.sum(0)
    cross = (logits * summed).sum(-1)
    return (log_norm * targets.sum(-1).sum(0) - cross).mean(-1).sum()
