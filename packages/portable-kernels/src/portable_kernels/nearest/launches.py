"""Mean squared distances to the three nearest neighbours by kernels, on a CUDA device, float32."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch

from portable_kernels.compiler import KernelModule, KernelSource, launch_grid

BLOCK = 128
LEAF = 32  # points of a leaf, and boxes of a box
BOX_FLOATS = 8
SOURCE = KernelSource("nearest.cu")


@cache
def _module() -> KernelModule:
    return KernelModule(SOURCE)


def _boxes(points: torch.Tensor, order: torch.Tensor, ordered: torch.Tensor) -> torch.Tensor:
    """Write points into their order (N, 4) and return the boxes of all levels, lowest first."""
    N, device = len(points), points.device
    counts = [-(-N // LEAF)]
    while counts[-1] > LEAF:
        counts.append(-(-counts[-1] // LEAF))
    boxes = points.new_empty((sum(counts), BOX_FLOATS))
    args = [points, order, N, ordered, boxes]
    _module().launch("make_leaves", launch_grid(counts[0] * LEAF, BLOCK), BLOCK, args, device)
    below = boxes
    for count_below, count in pairwise(counts):
        level = below[count_below:]
        args = [below, count_below, level]
        _module().launch("make_level", launch_grid(count * LEAF, BLOCK), BLOCK, args, device)
        below = level
    return boxes


def mean_squared_distance(points: torch.Tensor) -> torch.Tensor:
    """(N, 3) contiguous float32 → (N,). The same bits whatever order the points come in."""
    N, device = len(points), points.device
    means = points.new_empty(N)
    if N == 0:
        return means
    bounds = torch.zeros(6, dtype=torch.int32, device=device)
    keys = torch.empty(N, dtype=torch.int64, device=device)
    grid = min(launch_grid(N, BLOCK), 1024)
    _module().launch("find_bounds", grid, BLOCK, [points, N, bounds], device)
    _module().launch("morton_keys", launch_grid(N, BLOCK), BLOCK, [points, N, bounds, keys], device)
    order = torch.sort(keys).indices
    ordered = points.new_empty((N, 4))
    boxes = _boxes(points, order, ordered)
    grid = launch_grid(-(-N // LEAF) * LEAF, BLOCK)
    _module().launch("mean_distances", grid, BLOCK, [ordered, order, boxes, N, means], device)
    return means
