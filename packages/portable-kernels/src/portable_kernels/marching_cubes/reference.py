"""Marching cubes and trilinear interpolation in plain PyTorch. They serve the CPU, and the tests trust them.

Vertices and triangles come in the same order as from the kernels: grid points are taken in words of 32 along
x; a word's vertices stand together, those on edges along x first, then y, then z; triangles follow their
cells.
"""

from __future__ import annotations

import torch

from portable_kernels.marching_cubes.table import (
    AXES,
    EDGE_AXIS,
    EDGE_START,
    triangle_edges,
)

WORD = 32
CELLS_AT_ONCE = 1 << 20


def _shifted(grid: torch.Tensor, corner: int) -> torch.Tensor:
    """Return the part of a (D, H, W) grid that holds the given corner of every cell."""
    for axis in AXES:
        dim = 2 - axis
        start = corner >> axis & 1
        grid = grid.narrow(dim, start, grid.shape[dim] - 1)
    return grid


def _crossed_edges(below: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return the keys of all edges with one end below: ascending int64, see `_edge_key`."""
    D, H, W = below.shape
    words = -(-W // WORD)
    crossed = below.new_zeros((D, H, words * WORD, 3))
    for axis in AXES:
        dim = 2 - axis
        length = below.shape[dim] - 1
        first, second = below.narrow(dim, 0, length), below.narrow(dim, 1, length)
        both_known = known.narrow(dim, 0, length) & known.narrow(dim, 1, length)
        view = crossed[:, :, :W, axis].narrow(dim, 0, length)
        torch.logical_and(first ^ second, both_known, out=view)
    by_word = crossed.view(D * H * words, WORD, 3).transpose(1, 2).reshape(-1)
    return by_word.nonzero().squeeze(1)


def _edge_key(
    z: torch.Tensor, y: torch.Tensor, x: torch.Tensor, axis: torch.Tensor, shape: torch.Size
) -> torch.Tensor:
    """Return ((word · 3 + axis) · 32 + position in the word) of the edge that starts at (x, y, z)."""
    words = -(-shape[2] // WORD)
    word = (z * shape[1] + y) * words + x // WORD
    return (word * 3 + axis) * WORD + x % WORD


def _vertices(volume: torch.Tensor, threshold: float, keys: torch.Tensor) -> torch.Tensor:
    """Return (V, 3) float32 (x, y, z): where each crossed edge meets the threshold."""
    _, H, W = volume.shape
    words = -(-W // WORD)
    axis = keys // WORD % 3
    word = keys // (3 * WORD)
    row = word // words
    start = torch.stack([word % words * WORD + keys % WORD, row % H, row // H])  # x, y, z
    step = torch.stack([axis == along for along in AXES]).long()
    x, y, z = start
    a = volume[z, y, x].double()
    x, y, z = start + step
    b = volume[z, y, x].double()
    share = (threshold - a) / (b - a)
    share = torch.where(b.isinf(), 0.0, share)
    share = torch.where(a.isinf(), torch.where(b.isinf(), 0.5, 1.0).double(), share)
    return (start + step * share).float().t().contiguous()


def _cases(below: torch.Tensor) -> torch.Tensor:
    """Return (D - 1, H - 1, W - 1) uint8: bit c is set where corner c of the cell is below."""
    bits = below.to(torch.uint8)
    case = _shifted(bits, 0).clone()
    for corner in range(1, 8):
        case.bitwise_or_(_shifted(bits, corner) << corner)
    return case


def _faces(cells: torch.Tensor, case: torch.Tensor, shape: torch.Size, keys: torch.Tensor) -> torch.Tensor:
    """Return (T, 3) int32 for cells (A, 3) of (z, y, x) and their cases (A,)."""
    edges = triangle_edges()[case.long()].long()
    cell, place = (edges >= 0).nonzero(as_tuple=True)
    edge = edges[cell, place]
    start, axis = edge.new_tensor(EDGE_START)[edge], edge.new_tensor(EDGE_AXIS)[edge]
    z, y, x = cells[cell].unbind(1)
    key = _edge_key(z + (start >> 2), y + (start >> 1 & 1), x + (start & 1), axis, shape)
    return torch.searchsorted(keys, key).int().view(-1, 3)


def marching_cubes(volume: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Volume (D, H, W) float32 → vertices (V, 3) float32 of (x, y, z), faces (F, 3) int32."""
    no_mesh = volume.new_empty((0, 3)), volume.new_empty((0, 3), dtype=torch.int32)
    if min(volume.shape) < 2:
        return no_mesh
    threshold = float(volume.new_tensor(threshold))
    below, known = volume < threshold, ~volume.isnan()
    case = _cases(below)
    filled = (case != 0) & (case != 255)
    for corner in range(8):
        filled &= _shifted(known, corner)
    cells = filled.nonzero()
    keys = _crossed_edges(below, known)
    faces = [_faces(part, case[tuple(part.t())], volume.shape, keys) for part in cells.split(CELLS_AT_ONCE)]
    return _vertices(volume, threshold, keys), torch.cat(faces) if faces else no_mesh[1]


def grid_interp(volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Volume (C, D, H, W), points (P, 3) of (x, y, z) → (P, C). See `functional`."""
    lower: list[torch.Tensor] = []
    upper: list[torch.Tensor] = []
    share: list[torch.Tensor] = []
    for axis in AXES:
        length = volume.shape[3 - axis]
        position = points[:, axis]
        whole = position.trunc()
        share.append((position - whole)[:, None])
        index = whole.nan_to_num(0.0).clamp(-1, length).long()
        lower.append(index.clamp(0, length - 1))
        upper.append((index + 1).clamp(0, length - 1))
    out = volume.new_zeros((points.shape[0], volume.shape[0]))
    for corner in range(8):
        weight = volume.new_ones((points.shape[0], 1))
        at = []
        for axis in AXES:
            high = corner >> axis & 1
            weight = weight * (share[axis] if high else 1 - share[axis])
            at.append(upper[axis] if high else lower[axis])
        x, y, z = at
        out += weight * volume[:, z, y, x].t()
    return out
