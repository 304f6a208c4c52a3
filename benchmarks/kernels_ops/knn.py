"""pytorch3d.ops: 40,962 points of a sphere as in DeepPrep's SUGAR (K 3), and other shapes, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from kernels_ops import Comparison, original_module
from portable_kernels import knn as ours

POINTS = 40_962


def _pair(
    op: str, case: str, original: ModuleType | None, call: Callable[[Any], Callable[[], Any]]
) -> Comparison:
    return Comparison(op, case, call(ours), call(original) if original else None)


def _knn(
    p1: torch.Tensor, p2: torch.Tensor, original: ModuleType | None, what: str, **options: Any
) -> Iterator[Comparison]:
    N, P1, D = p1.shape
    case = f"({N}, {P1}, {D}) in ({N}, {p2.shape[1]}, {D}) {what}, " + ", ".join(
        f"{k} {v}" for k, v in options.items()
    )
    yield _pair("knn_points", f"{case}, forward", original, lambda m: lambda: m.knn_points(p1, p2, **options))

    def backward(library: Any) -> Callable[[], Any]:
        leaves = p1.detach().clone().requires_grad_(), p2.detach().clone().requires_grad_()
        dists = library.knn_points(*leaves, **options).dists
        gradient = torch.ones_like(dists)
        return lambda: torch.autograd.grad(dists, leaves, gradient, retain_graph=True)

    if options.get("K") == 3:
        yield _pair("knn_points", f"{case}, backward", original, backward)


def comparisons(times: int) -> Iterator[Comparison]:
    """Yield the searches at `times` the workload's number of points; the batches of small clouds once."""
    original = original_module("pytorch3d.ops")
    generator = torch.Generator(device="cuda").manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    def sphere(points: int) -> torch.Tensor:
        return torch.nn.functional.normalize(numbers(1, points, 3), dim=2) * 100

    moved, fixed = sphere(POINTS * times), sphere(POINTS * times)
    for K in (3, 1, 8, 32) if times == 1 else (3,):
        yield from _knn(moved, fixed, original, "on a sphere", K=K)
    yield from _knn(fixed, fixed, original, "on a sphere, itself", K=3)
    yield from _knn(numbers(1, POINTS * times, 3), numbers(1, POINTS * times, 3), original, "normal", K=3)
    idx = ours.knn_points(moved, fixed, K=3).idx
    features = numbers(1, POINTS * times, 256)
    case = f"(1, {POINTS * times}, 256) by (1, {POINTS * times}, 3)"
    yield _pair("knn_gather", case, original, lambda m: lambda: m.knn_gather(features, idx))
    cloud = torch.rand((1, POINTS * times, 3), generator=generator, device="cuda")
    yield _pair(
        "ball_query",
        f"(1, {POINTS * times}, 3) in a cube, K 32, radius 0.05",
        original,
        lambda m: lambda: m.ball_query(cloud, cloud, K=32, radius=0.05),
    )
    if times > 1:
        return
    for N, P, D, K in (
        (1, 1000, 3, 3),
        (32, 1024, 3, 16),
        (8, 4096, 3, 3),
        (8, 1000, 8, 10),
        (4, 4096, 32, 5),
    ):
        yield from _knn(numbers(N, P, D), numbers(N, P, D), original, "normal", K=K)
    yield from _knn(numbers(1, 10_000, 3), numbers(1, 10_000, 3), original, "normal", K=100)
    clouds = torch.rand((8, 4096, 3), generator=generator, device="cuda")
    yield _pair(
        "ball_query",
        "(8, 4096, 3) in a cube, K 500, radius 0.2",
        original,
        lambda m: lambda: m.ball_query(clouds, clouds),
    )
