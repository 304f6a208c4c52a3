"""Every reduction in plain PyTorch, on (B, E, K). It serves the CPU, and the tests trust it.

Conventions of torch_scatter: NaN never wins a minimum or maximum, nor does a value that is no better than the
dtype's own extreme; of equal values the first position wins; where nothing won, the value is 0 and the
position E.
"""

from __future__ import annotations

import torch

WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def _bounds(dtype: torch.dtype) -> tuple[float | int, float | int]:
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    return info.min, info.max


def scatter_reduce(
    src: torch.Tensor, index: torch.Tensor, size: int, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce src (B, E, K) by index (B, E, K) in [0, size) → values, positions (B, size, K) or empty.

    `reduction`: sum, mean, mul, min or max. 16-bit floats are added up in float32.
    """
    batch, _, inner = src.shape
    if reduction in ("min", "max"):
        return _scatter_extreme(src, index, size, reduction)
    wide = src.to(WIDER.get(src.dtype, src.dtype))
    nothing = torch.empty(0, dtype=torch.int64, device=src.device)
    if reduction == "mul":
        out = torch.ones((batch, size, inner), dtype=wide.dtype, device=src.device)
        return out.scatter_reduce_(1, index, wide, "prod").to(src.dtype), nothing
    out = torch.zeros((batch, size, inner), dtype=wide.dtype, device=src.device)
    out.scatter_add_(1, index, wide)
    if reduction == "mean":
        count = torch.zeros((batch, size, inner), dtype=torch.int64, device=src.device)
        count.scatter_add_(1, index, torch.ones_like(index)).clamp_(min=1)
        out = out / count if src.dtype.is_floating_point else out.div(count, rounding_mode="trunc")
    return out.to(src.dtype), nothing


def _scatter_extreme(
    src: torch.Tensor, index: torch.Tensor, size: int, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, length, inner = src.shape
    lowest, highest = _bounds(src.dtype)
    start = lowest if reduction == "max" else highest
    wins = src > start if reduction == "max" else src < start  # False for NaN
    candidates = torch.where(wins, src, torch.full_like(src, start))
    best = torch.full((batch, size, inner), start, dtype=src.dtype, device=src.device)
    best.scatter_reduce_(1, index, candidates, "amax" if reduction == "max" else "amin")
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
    src: torch.Tensor, pointers: torch.Tensor, reduction: str, untouched_is_zero: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce src (B, E, K) over [pointers[b, n], pointers[b, n + 1]) → (B, N, K), positions or empty.

    `untouched_is_zero`: where nothing won though the segment has elements, 0 (True) or the start value.
    """
    segments = pointers.shape[1] - 1
    index = index_from_pointers(pointers, src.shape[1])[:, :, None].expand(src.shape)
    out, arg = scatter_reduce(src, index, segments + 1, reduction)
    out, arg = out[:, :segments].contiguous(), arg[:, :segments].contiguous() if arg.numel() else arg
    if reduction in ("min", "max") and not untouched_is_zero:
        lowest, highest = _bounds(WIDER.get(src.dtype, src.dtype))
        start = lowest if reduction == "max" else highest
        filled = (pointers[:, 1:] > pointers[:, :-1])[:, :, None] & (arg == src.shape[1])
        out = torch.where(
            filled, torch.full_like(out, float(start) if out.is_floating_point() else start), out
        )
    return out, arg


def gather(src: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return out[b, e, k] = src[b, index[b, e, k], k]."""
    return src.gather(1, index)


def gather_segments(src: torch.Tensor, pointers: torch.Tensor, length: int) -> torch.Tensor:
    """Return (B, length, K): src (B, N, K) repeated over its segments; 0 where no segment has a position."""
    index = index_from_pointers(pointers, length)[:, :, None].expand(-1, -1, src.shape[2])
    padded = torch.cat([src, src.new_zeros((src.shape[0], 1, src.shape[2]))], dim=1)
    return padded.gather(1, index)
