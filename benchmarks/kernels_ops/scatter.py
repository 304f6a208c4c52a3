"""torch_scatter: the sizes of DeepPrep's SUGAR (286,734 edges × 256 → 40,962 nodes), forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from kernels_ops import Comparison, original_module
from portable_kernels import scatter as ours

EDGES, NODES, CHANNELS, HEADS = 286_734, 40_962, 256, 8


def _values(result: Any) -> torch.Tensor:
    return result[0] if isinstance(result, tuple) else result


def _both_ways(
    op: str,
    case: str,
    src: torch.Tensor,
    call: Callable[[Any, torch.Tensor], Any],
    original: ModuleType | None,
) -> Iterator[Comparison]:
    """Forward alone; backward alone, by a gradient that is kept."""

    def forward(library: Any) -> Callable[[], Any]:
        return lambda: call(library, src)

    def backward(library: Any) -> Callable[[], Any]:
        leaf = src.detach().requires_grad_()
        out = _values(call(library, leaf))
        gradient = torch.randn_like(out)
        return lambda: torch.autograd.grad(out, leaf, gradient, retain_graph=True)

    yield Comparison(op, f"{case}, forward", forward(ours), forward(original) if original else None)
    if src.is_floating_point():
        yield Comparison(op, f"{case}, backward", backward(ours), backward(original) if original else None)


def comparisons(times: int) -> Iterator[Comparison]:
    """Yield every op at `times` the workload's size."""
    original = original_module("torch_scatter")
    edges, nodes = EDGES * times, NODES * times
    generator = torch.Generator(device="cuda").manual_seed(0)

    def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda").to(dtype)

    index = torch.randint(0, nodes, (edges,), generator=generator, device="cuda")
    ordered = index.sort().values
    counts = torch.bincount(ordered, minlength=nodes)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    for channels in (CHANNELS, HEADS, 1):
        src = numbers(edges, channels)
        case = f"({edges}, {channels}) float32 → {nodes}"
        for reduction in ("sum", "mean", "max", "min", "mul"):
            name = f"scatter_{reduction}"
            yield from _both_ways(
                name, case, src, lambda m, x, n=name: getattr(m, n)(x, index, 0, None, nodes), original
            )
        for reduction in ("sum", "mean", "max"):
            name = f"segment_{reduction}_csr"
            yield from _both_ways(name, case, src, lambda m, x, n=name: getattr(m, n)(x, indptr), original)
            name = f"segment_{reduction}_coo"
            yield from _both_ways(
                name, case, src, lambda m, x, n=name: getattr(m, n)(x, ordered, None, nodes), original
            )
        rows = numbers(nodes, channels)
        gathered = f"({nodes}, {channels}) float32 → {edges}"
        yield from _both_ways("gather_coo", gathered, rows, lambda m, x: m.gather_coo(x, ordered), original)
        yield from _both_ways("gather_csr", gathered, rows, lambda m, x: m.gather_csr(x, indptr), original)
    src = numbers(edges, HEADS)
    case = f"({edges}, {HEADS}) float32 → {nodes}"
    for name in ("scatter_softmax", "scatter_log_softmax", "scatter_logsumexp", "scatter_std"):
        yield from _both_ways(
            name, case, src, lambda m, x, n=name: getattr(m, n)(x, index, 0, dim_size=nodes), original
        )
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64):
        src = numbers(edges, CHANNELS // 4, dtype=dtype)
        case = f"({edges}, {CHANNELS // 4}) {str(dtype).removeprefix('torch.')} → {nodes}"
        for name in ("scatter_sum", "scatter_max"):
            yield from _both_ways(
                name, case, src, lambda m, x, n=name: getattr(m, n)(x, index, 0, None, nodes), original
            )
