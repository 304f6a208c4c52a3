"""The same by kernels, on contiguous tensors of a CUDA device."""

from __future__ import annotations

from functools import cache

import torch

from portable_kernels.compiler import KernelModule, KernelSource, launch_grid
from portable_kernels.marching_cubes.table import triangle_counts, triangle_edges

MESH_SOURCE = KernelSource("marching_cubes.cu")
INTERP_SOURCE = KernelSource("grid_interp.cu")

BLOCK = 256
WORD = 32
WORDS_A_BLOCK = BLOCK // 32 * 8  # a warp takes 8 words
MOST_WORDS = 2**31 - 1
MOST_VERTICES = 2**31 - 1


@cache
def _module(source: KernelSource) -> KernelModule:
    return KernelModule(source)


@cache
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return triangle_counts().to(device), triangle_edges().to(device)


def marching_cubes(volume: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Volume (D, H, W) float32 → vertices (V, 3) float32 of (x, y, z), faces (F, 3) int32. See `functional`.

    Waits once for the device, to learn V and F. RuntimeError when the mesh has more vertices than int32 can
    number.
    """
    device = volume.device
    D, H, W = volume.shape
    if min(volume.shape) < 2:
        return volume.new_empty((0, 3)), torch.empty((0, 3), dtype=torch.int32, device=device)
    row_words = -(-W // WORD)
    words = D * H * row_words
    if words > MOST_WORDS:
        raise RuntimeError(f"a volume of {D}x{H}x{W} points is more than marching_cubes can number")
    module, (case_counts, case_edges) = _module(MESH_SOURCE), _tables(device)
    below, known = torch.empty((2, words), dtype=torch.int32, device=device)
    masks = torch.empty((words, 4), dtype=torch.int32, device=device)
    counts = torch.empty(4 * words, dtype=torch.int64, device=device)
    threshold = float(threshold)
    module.launch(
        "below_bits",
        launch_grid(words, WORDS_A_BLOCK),
        BLOCK,
        [volume, threshold, below, known, words, row_words, W],
        device,
    )
    shape = [words, row_words, H, D, W]
    module.launch(
        "count_words",
        launch_grid(words, BLOCK),
        BLOCK,
        [below, known, case_counts, masks, counts, *shape],
        device,
    )
    sums = counts.cumsum(0)
    vertex_count, total = sums[3 * words - 1 :: words].tolist()
    if vertex_count > MOST_VERTICES:
        raise RuntimeError(f"the mesh has {vertex_count} vertices, more than its int32 faces can number")
    vertices = torch.empty((vertex_count, 3), dtype=torch.float32, device=device)
    faces = torch.empty((total - vertex_count, 3), dtype=torch.int32, device=device)
    if total:
        args = [volume, threshold, below, masks, sums, case_counts, case_edges, vertices, faces, vertex_count]
        module.launch("emit", launch_grid(words, WORDS_A_BLOCK), BLOCK, [*args, *shape], device)
    return vertices, faces


def grid_interp(volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Volume (C, D, H, W), points (P, 3) of (x, y, z), float32 → (P, C). See `functional`."""
    C, D, H, W = volume.shape
    out = torch.empty((points.shape[0], C), dtype=torch.float32, device=volume.device)
    if out.numel():
        args = [volume, points, out, out.numel(), C, D, H, W]
        _module(INTERP_SOURCE).launch(
            "grid_interp", launch_grid(out.numel(), BLOCK), BLOCK, args, volume.device
        )
    return out
