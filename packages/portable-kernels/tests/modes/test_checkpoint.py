"""Activation checkpointing: nothing is kept, the forward pass runs again, and gradients are the same."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from .calls import DIFFERENTIABLE


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_the_same(name: str, reentrant: bool, device: str) -> None:
    call = DIFFERENTIABLE[name]
    plain, checkpointed = call.on(device, requires_grad=True), call.on(device, requires_grad=True)
    call(*plain)[0].square().sum().backward()
    checkpoint(lambda *t: call(*t)[0], *checkpointed, use_reentrant=reentrant).square().sum().backward()
    for one, other in zip(plain, checkpointed, strict=True):
        if one.grad is None:
            assert other.grad is None
        else:
            torch.testing.assert_close(other.grad, one.grad)
