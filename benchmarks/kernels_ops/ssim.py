"""fused_ssim: one image of 3DGS training, 1600×1066 (times 10: a batch of ten)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from kernels_ops import Comparison, original_module
from portable_kernels import ssim as ours

HEIGHT, WIDTH = 1066, 1600


def comparisons(times: int) -> Iterator[Comparison]:
    """Yield forward without and with what training keeps, backward, and both."""
    original = original_module("fused_ssim")
    first = torch.rand(times, 3, HEIGHT, WIDTH, device="cuda", requires_grad=True)
    second = torch.rand(times, 3, HEIGHT, WIDTH, device="cuda")

    def inference(library: Any) -> Callable[[], Any]:
        def call() -> Any:
            with torch.no_grad():
                return library.fused_ssim(first, second, train=False)

        return call

    def forward(library: Any) -> Callable[[], Any]:
        return lambda: library.fused_ssim(first, second)

    def backward(library: Any) -> Callable[[], Any]:
        similarity = library.fused_ssim(first, second)
        return lambda: torch.autograd.grad(similarity, first, retain_graph=True)

    def both(library: Any) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(library.fused_ssim(first, second), first)

    cases = {
        "inference": inference,
        "forward": forward,
        "backward": backward,
        "forward and backward": both,
    }
    for case, make in cases.items():
        name = f"{times}×3×{HEIGHT}×{WIDTH}, {case}"
        yield Comparison("fused_ssim", name, make(ours), make(original) if original else None)
