"""Which kernel computes attention, decided from outside the model."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from prostate_ssl.models.layers import Attention, AttentionKernel


@cache
def flex_kernel() -> AttentionKernel:
    """FlexAttention (Dong et al. 2024), compiled: in fp32 its products run in TF32 where that is allowed.

    PyTorch's fused attention has no TF32 kernel: its fp32 path takes most of an fp32 step.
    """
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return compiled(q, k, v)

    return attend


def use_kernel(model: nn.Module, name: str) -> None:
    """Put the kernel `name` ("sdpa" or "flex") into every attention layer of `model`."""
    kernel = flex_kernel() if name == "flex" else F.scaled_dot_product_attention
    for module in model.modules():
        if isinstance(module, Attention):
            module.kernel = kernel
