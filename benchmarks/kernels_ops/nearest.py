"""simple_knn: the points that 3DGS starts from, 100,000 (times 10: a million), even and clustered."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels_ops import Comparison, original_module
from portable_kernels import nearest as ours

POINTS = 100_000


def comparisons(times: int) -> Iterator[Comparison]:
    """Yield distCUDA2 for `times` the points."""
    original = original_module("simple_knn._C")
    count = POINTS * times
    generator = torch.Generator(device="cuda").manual_seed(0)
    even = torch.rand(count, 3, generator=generator, device="cuda")
    centres = 20 * torch.randn(count, 3, generator=generator, device="cuda")[torch.arange(count) % 50]
    for case, points in (("even", even), ("50 clusters", centres + 0.1 * even)):
        yield Comparison(
            "distCUDA2",
            f"{count} points, {case}",
            lambda points=points: ours.distCUDA2(points),
            (lambda points=points: original.distCUDA2(points)) if original else None,
        )
