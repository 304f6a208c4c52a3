"""torch_scatter's definitions as loops over Python numbers: slow, and obviously right."""

from __future__ import annotations

import math
from itertools import pairwise, product

import torch


def _reduce(values: list[float], reduction: str, rounding: str | None) -> float:
    if reduction == "sum":
        return math.fsum(values) if rounding is None else sum(values)
    if reduction == "mul":
        return math.prod(values)
    if reduction == "mean":
        count = max(len(values), 1)
        if rounding is None:
            return math.fsum(values) / count
        return math.floor(sum(values) / count) if rounding == "floor" else math.trunc(sum(values) / count)
    return (min if reduction == "min" else max)(values)


def scatter(
    src: torch.Tensor, index: torch.Tensor, dim: int, size: int, reduction: str, rounding: str = "floor"
) -> tuple[torch.Tensor, torch.Tensor]:
    """`index` has `src`'s shape. Values in float64 (or int64) and positions, of `src.size(dim)` where none is."""
    integer = not src.is_floating_point()
    shape = list(src.shape)
    shape[dim] = size
    wide = src.cpu().to(torch.int64 if integer else torch.float64)
    index = index.cpu()
    values = torch.zeros(shape, dtype=wide.dtype)
    positions = torch.full(shape, src.shape[dim], dtype=torch.int64)
    gathered: dict[tuple[int, ...], list[tuple[float, int]]] = {}
    for place in product(*(range(n) for n in src.shape)):
        target = (*place[:dim], int(index[place]), *place[dim + 1 :])
        gathered.setdefault(target, []).append((wide[place].item(), place[dim]))
    if reduction == "mul" and src.numel():
        values.fill_(1)
    for target, elements in gathered.items():
        numbers = [number for number, _ in elements]
        values[target] = _reduce(numbers, reduction, rounding if integer else None)
        if reduction in ("min", "max"):
            positions[target] = next(at for number, at in elements if number == values[target].item())
    return values, positions


def index_of_pointers(indptr: list[int]) -> torch.Tensor:
    """Return the segment of each position: [0, 2, 3] → [0, 0, 1]."""
    return torch.tensor([n for n, (low, high) in enumerate(pairwise(indptr)) for _ in range(low, high)])
