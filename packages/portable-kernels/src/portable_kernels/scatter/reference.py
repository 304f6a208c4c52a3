"""Every reduction in plain PyTorch, on (B, E, K). It serves the CPU, and the tests trust it.

Conventions of torch_scatter: NaN never wins a minimum or maximum, nor does a value that is no better than
where the search starts; of equal values the first position wins; where nothing won, the position is E.
"""

from __future__ import annotations

import torch

from portable_kernels.scatter.layout import Start

WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def _start(dtype: torch.dtype, largest: bool, start: Start) -> float | int:
    """Return what a minimum or maximum of a dtype must beat."""
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        return int(info.min if largest else info.max)
    if start is Start.INFINITE:
        return float("-inf") if largest else float("inf")
    return float(torch.finfo(dtype).min if largest else torch.finfo(dtype).max)


def count_by_index(index: torch.Tensor, size: int) -> torch.Tensor:
    """Index (B, E, K) in [0, size) → how often each target occurs, (B, size, K) int64, at least 1."""
    count = torch.zeros((index.shape[0], size, index.shape[2]), dtype=torch.int64, device=index.device)
    return count.scatter_add_(1, index, torch.ones_like(index)).clamp_(min=1)


def scatter_reduce(
    src: torch.Tensor, index: torch.Tensor, size: int, reduction: str, start: Start = Start.ELEMENT
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce src (B, E, K) by index (B, E, K) in [0, size) → values, positions (B, size, K) or empty.

    `reduction`: sum, mul, min or max; a mean is a sum over its count. 16-bit floats are added up in float32.
    """
    batch, length, inner = src.shape
    if reduction in ("min", "max"):
        return _scatter_extreme(src, index, size, reduction == "max", start)
    wide = src.to(WIDER.get(src.dtype, src.dtype))
    nothing = torch.empty(0, dtype=torch.int64, device=src.device)
    if reduction == "mul":
        # Of no elements at all torch_scatter makes zeros, of none for one target the empty product.
        first = 1 if length else 0
        out = torch.full((batch, size, inner), first, dtype=wide.dtype, device=src.device)
        return out.scatter_reduce_(1, index, wide, "prod").to(src.dtype), nothing
    out = torch.zeros((batch, size, inner), dtype=wide.dtype, device=src.device)
    return out.scatter_add_(1, index, wide).to(src.dtype), nothing


def scatter_mean(src: torch.Tensor, index: torch.Tensor, count: torch.Tensor, rounding: str) -> torch.Tensor:
    """Mean of src (B, E, K) by index, `count` (B, N, K) elements a target; `rounding` of integers.

    Floor or trunc.
    """
    wide = src.to(WIDER.get(src.dtype, src.dtype))
    out, _ = scatter_reduce(wide, index, count.shape[1], "sum")
    if src.dtype.is_floating_point:
        return (out / count).to(src.dtype)
    return out.div(count, rounding_mode=rounding).to(src.dtype)


def _scatter_extreme(
    src: torch.Tensor, index: torch.Tensor, size: int, largest: bool, start: Start
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, length, inner = src.shape
    first = _start(src.dtype, largest, start)
    wins = src > first if largest else src < first  # False for NaN
    candidates = torch.where(wins, src, torch.full_like(src, first))
    best = torch.full((batch, size, inner), first, dtype=src.dtype, device=src.device)
    best.scatter_reduce_(1, index, candidates, "amax" if largest else "amin")
    position = torch.arange(length, device=src.device)[None, :, None].expand_as(src)
    position = torch.where(wins & (src == best.gather(1, index)), position, length)
    arg = torch.full((batch, size, inner), length, dtype=torch.int64, device=src.device)
    arg.scatter_reduce_(1, index, position, "amin")
    return torch.where(arg < length, best, torch.zeros_like(best)), arg


def index_from_pointers(pointers: torch.Tensor, length: int) -> torch.Tensor:
    """Return (B, length): the segment of each position by pointers (B, N + 1), and N where it has none."""
    batch, segments = pointers.shape[0], pointers.shape[1] - 1
    position = torch.arange(length, device=pointers.device).expand(batch, length)
    row = torch.searchsorted(pointers.contiguous(), position.contiguous(), right=True) - 1
    return torch.where((row >= 0) & (row < segments), row, segments)


def segment_reduce(
    src: torch.Tensor, pointers: torch.Tensor, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce src (B, E, K) over [pointers[b, n], pointers[b, n + 1]) → (B, N, K), positions or empty.

    `reduction`: sum, mean, min or max. A minimum or maximum of a segment that has elements, none of which won
    (NaN, infinities), is where the search started: the extreme of the dtype that is computed in.
    """
    segments = pointers.shape[1] - 1
    wide = src.to(WIDER.get(src.dtype, src.dtype))
    index = index_from_pointers(pointers, src.shape[1])[:, :, None].expand(src.shape)
    out, arg = scatter_reduce(wide, index, segments + 1, "sum" if reduction == "mean" else reduction)
    out, arg = out[:, :segments], arg[:, :segments].contiguous() if arg.numel() else arg
    size = (pointers[:, 1:] - pointers[:, :-1])[:, :, None]
    if reduction == "mean":
        count = size.clamp(min=1)
        out = out / count if out.is_floating_point() else out.div(count, rounding_mode="trunc")
    elif reduction in ("min", "max"):
        lost = (size > 0) & (arg == src.shape[1])
        out = torch.where(
            lost, torch.full_like(out, _start(wide.dtype, reduction == "max", Start.ACCUMULATOR)), out
        )
    return out.to(src.dtype).contiguous(), arg


def gather(src: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return out[b, e, k] = src[b, index[b, e, k], k]."""
    return src.gather(1, index)


def gather_segments(src: torch.Tensor, pointers: torch.Tensor, length: int) -> torch.Tensor:
    """Return (B, length, K): src (B, N, K) repeated over its segments; 0 where no segment has a position."""
    index = index_from_pointers(pointers, length)[:, :, None].expand(-1, -1, src.shape[2])
    padded = torch.cat([src, src.new_zeros((src.shape[0], 1, src.shape[2]))], dim=1)
    return padded.gather(1, index)


def spread(values: torch.Tensor, arg: torch.Tensor, length: int) -> torch.Tensor:
    """Return (B, length, K) of zeros with out[b, arg[b, n, k], k] = values[b, n, k].

    Positions >= length are none.
    """
    batch, _, inner = values.shape
    out = values.new_zeros((batch, length + 1, inner))
    return out.scatter_(1, arg.clamp(max=length), values)[:, :length].contiguous()
