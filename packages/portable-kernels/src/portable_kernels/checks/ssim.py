"""Structural similarity and its gradient."""

from __future__ import annotations

import torch

from portable_kernels.checks import Case
from portable_kernels.ssim import fused_ssim
from portable_kernels.ssim.launches import SOURCE


def _similarity(device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand((1, 3, 70, 90), generator=generator).to(device).requires_grad_()
    value = fused_ssim(first, torch.rand((1, 3, 70, 90), generator=generator).to(device))
    (gradient,) = torch.autograd.grad(value, first)
    return [value.detach(), gradient]


CASES = [Case("fused_ssim", _similarity, (SOURCE,), tolerance=1e-4)]
