"""Forward-mode differentiation, where an op has no rule for it: said, rather than lost.

`torch.library` drops a tangent without a word; the originals, `autograd.Function`s, refuse it.
"""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def refuse_tangents(name: str, *tensors: torch.Tensor | None) -> None:
    """Raise NotImplementedError if any of the tensors has a tangent (`torch.func.jvp`, `forward_ad`)."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise NotImplementedError(f"{name} has no forward-mode derivative: use reverse mode")
