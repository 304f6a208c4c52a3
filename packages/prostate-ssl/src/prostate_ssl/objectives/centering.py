"""Teacher scores → targets: two ways that keep the teacher from collapsing onto one prototype."""

from __future__ import annotations

import math

import torch
from torch import nn

from prostate_ssl.objectives.collective import (
    PendingSum,
    max_over_ranks,
    start_sum_over_ranks,
    sum_over_ranks,
)


class RunningCenter(nn.Module):
    """Centring and sharpening (Caron et al. 2021, section 3.1, eq. 4).

    targets = softmax((scores − c) / τ), where c ← m c + (1 − m) · mean of the scores over all tokens of
    all ranks. As published, a batch is centred with the c of the batches before it, so the ranks' sum has
    until the end of the step to arrive (`settle`).

    Args:
        shape: shape of the buffer `center`; published: (1, K) for DINO and (1, 1, K) for iBOT.
        momentum: m.
    """

    center: torch.Tensor

    def __init__(self, shape: tuple[int, ...], momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self._observed: PendingSum | None = None
        self.register_buffer("center", torch.zeros(shape))

    @torch.no_grad()
    def targets(
        self, scores: torch.Tensor, temperature: float | torch.Tensor, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Targets for `scores`; the center moves when the caller calls `settle`.

        Args:
            scores: (T, K) teacher scores.
            temperature: τ.
            valid: (T,) bool; rows that are only padding don't move the center. None: all are real.

        Returns:
            (T, K) float32, rows summing to one.
        """
        self.settle()
        scores = scores.float()
        weight = torch.ones_like(scores[:, 0]) if valid is None else valid.float()
        self._observed = start_sum_over_ranks(torch.cat([weight @ scores, weight.sum().view(1)]))
        return ((scores - self.center.view(1, -1)) / temperature).softmax(-1)

    @torch.no_grad()
    def settle(self) -> None:
        """Move the center by what `targets` has seen on all ranks; nothing if nothing is new."""
        if self._observed is None:
            return
        total, self._observed = self._observed.wait(), None
        mean = total[:-1] / total[-1].clamp(min=1)
        moved = torch.lerp(mean.view_as(self.center), self.center, self.momentum)
        self.center.copy_(torch.where(total[-1] > 0, moved, self.center))


@torch.no_grad()
def sinkhorn_knopp(
    scores: torch.Tensor,
    temperature: float | torch.Tensor,
    valid: torch.Tensor | None = None,
    iterations: int = 3,
) -> torch.Tensor:
    """Targets with equal use of all prototypes (Caron et al. 2020, «SwAV», section 3.1; Cuturi 2013).

    Q = exp(scores / τ), scaled in turn to prototypes that weigh 1/K each and tokens that weigh 1/T each,
    over the tokens of all ranks.

    Args:
        scores: (T, K) teacher scores of this rank.
        temperature: τ.
        valid: (T,) bool; padding rows weigh nothing and come back as zeros.
        iterations: pairs of scalings.

    Returns:
        (T, K) float32, rows summing to one.
    """
    # In logarithms, Q = exp(logits − u − v): sharp teachers overflow or vanish otherwise.
    logits = scores.float() / temperature
    rows, prototypes = logits.shape
    if valid is not None:
        logits = logits.masked_fill(~valid.unsqueeze(-1), float("-inf"))
    tokens = sum_over_ranks(logits.new_full((), rows) if valid is None else valid.float().sum())
    v = logits.new_zeros(rows, 1)
    for _ in range(iterations):
        u = _logsumexp_over_tokens(logits - v) + math.log(prototypes)
        v = (logits - u).logsumexp(1, keepdim=True) + tokens.log()
        if valid is not None:
            v = v.masked_fill(~valid.unsqueeze(-1), 0.0)
    return (logits - u - v).exp() * tokens


def _logsumexp_over_tokens(x: torch.Tensor) -> torch.Tensor:
    """log Σ exp over the tokens of all ranks: (T, K) → (1, K)."""
    top = max_over_ranks(x.amax(0, keepdim=True)).nan_to_num(neginf=0.0)
    total = sum_over_ranks((x - top).exp().sum(0, keepdim=True))
    # Without any token (a batch in which nothing is masked) there is nothing to scale; log 0 would spread.
    return top + total.clamp(min=torch.finfo(total.dtype).tiny).log()
