"""The same reductions by kernels, on (B, E, K) of a CUDA device."""

from __future__ import annotations

from functools import cache

import torch

from portable_kernels import index_errors
from portable_kernels.compiler import KernelModule, KernelSource, launch_grid
from portable_kernels.scalar_types import CUDA_NAME, WORD_OF_SIZE, sum_dtype
from portable_kernels.scatter.layout import Layout

REDUCTIONS = {"sum": 0, "mean": 1, "mul": 2, "min": 3, "max": 4}
BLOCK = 256
INDEX_TYPES = (torch.int16, torch.int32, torch.int64)


def segment_source(dtype: torch.dtype, reduction: str, vector: int) -> KernelSource:
    """Return the source of `segment_reduce` for an element type, a reduction and elements per thread."""
    macros = (
        ("SCALAR", CUDA_NAME[dtype]),
        ("REDUCTION", str(REDUCTIONS[reduction])),
        ("VECTOR", str(vector)),
    )
    return KernelSource("scatter.cu", macros)


def atomic_source(dtype: torch.dtype) -> KernelSource:
    """Return the source of the kernels with atomics for an element type."""
    return KernelSource(
        "scatter_atomic.cu", (("SCALAR", CUDA_NAME[dtype]), ("SUM_TYPE", CUDA_NAME[sum_dtype(dtype)]))
    )


def index_source(element_size: int, index_dtype: torch.dtype = torch.int64) -> KernelSource:
    """Return the source of the kernels that move elements of some size by an index of some type."""
    return KernelSource(
        "index.cu", (("ELEMENT", WORD_OF_SIZE[element_size]), ("INDEX", CUDA_NAME[index_dtype]))
    )


@cache
def _module(source: KernelSource) -> KernelModule:
    return KernelModule(source)


def _power_of_two(value: int, most: int) -> int:
    """Return the smallest power of two that is >= value, at most `most`."""
    return min(most, 1 << max(0, value - 1).bit_length())


def _vector(dtype: torch.dtype, K: int, *tensors: torch.Tensor) -> int:
    """Return how many elements along K a thread may take at once: up to 16 bytes, all addresses aligned."""
    size = dtype.itemsize
    vector = 16 // size
    while vector > 1 and (K % vector or any(t.data_ptr() % (vector * size) for t in tensors)):
        vector //= 2
    return min(vector, 4)


def segment_reduce(
    src: torch.Tensor,
    pointers: torch.Tensor,
    pointer_stride: int,
    segments: int,
    reduction: str,
    untouched_is_zero: bool,
    order: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce src (B, E, K) over segments → (B, N, K), positions (B, N, K) or empty. Deterministic.

    `pointers`: (…, N + 1) int64, `pointer_stride` apart from batch to batch; `order` (E,): positions are read
    through it.
    """
    B, E, K = src.shape
    out = torch.empty((B, segments, K), dtype=src.dtype, device=src.device)
    extreme = reduction in ("min", "max")
    arg = torch.empty((B, segments, K) if extreme else 0, dtype=torch.int64, device=src.device)
    if out.numel() == 0:
        return out, arg
    vector = _vector(src.dtype, K, src, out)
    rows = B * segments
    lanes_k = _power_of_two(-(-K // vector), 32)
    lanes_e = _power_of_two(-(-E * B // (rows * 4)), BLOCK // lanes_k)
    per_block = BLOCK // (lanes_k * lanes_e)
    chunks = -(-K // (lanes_k * vector))
    grid = launch_grid(launch_grid(rows, per_block) * chunks, 1)
    index_errors.raise_reported(src.device.index)
    args = [
        src,
        pointers,
        order,
        out,
        arg,
        rows,
        segments,
        E,
        K,
        pointer_stride,
        int(untouched_is_zero),
        chunks,
    ]
    _module(segment_source(src.dtype, reduction, vector)).launch(
        "segment_reduce",
        grid,
        (lanes_k, lanes_e, per_block),
        [*args, index_errors.flag(src.device.index)],
        src.device,
    )
    index_errors.after_launch(src.device.index)
    return out, arg


def pointers_from_sorted(index: torch.Tensor, segments: int) -> torch.Tensor:
    """Sorted index (B, E) in [0, segments) → pointers (B, segments + 1) int64."""
    B, E = index.shape
    pointers = torch.zeros((B, segments + 1), dtype=torch.int64, device=index.device)
    index_errors.raise_reported(index.device.index)
    args = [index, pointers, B, E, segments, *index.stride(), index_errors.flag(index.device.index)]
    _module(index_source(4, index.dtype)).launch(
        "pointers_from_sorted", launch_grid(B * (E + 1), BLOCK), BLOCK, args, index.device
    )
    index_errors.after_launch(index.device.index)
    return pointers


def _key_dtype(size: int) -> torch.dtype:
    """Return the narrowest type for keys below `size`: a radix sort takes a pass a byte."""
    for dtype in INDEX_TYPES[:-1]:
        if size <= torch.iinfo(dtype).max:
            return dtype
    return torch.int64


def _scatter_sorted(
    src: torch.Tensor, index: torch.Tensor, size: int, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort an index (E,) that all of B and K share, then reduce segments: no atomics, reproducible bits."""
    keys, order = torch.sort(index.clamp(-1, size).to(_key_dtype(size)), stable=True)
    pointers = pointers_from_sorted(keys[None], size)
    return segment_reduce(src, pointers, 0, size, reduction, True, order)


def _scatter_linear(layout: Layout, size: int, reduction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same where the index differs along B or K: one long index of all targets."""
    B, E, K = layout.src.shape
    device = layout.src.device
    inside = (layout.index >= 0) & (layout.index < size)
    outer = torch.arange(B, device=device)[:, None, None] * size
    targets = (outer + layout.index) * K + torch.arange(K, device=device)
    targets = torch.where(inside, targets, B * size * K)  # reported as outside by pointers_from_sorted
    out, arg = _scatter_sorted(layout.src.reshape(1, -1, 1), targets.reshape(-1), B * size * K, reduction)
    if arg.numel():
        arg = torch.where(arg < B * E * K, (arg // K) % E, E)
        arg = arg.view(B, size, K)
    return out.view(B, size, K), arg


def scatter_reduce(layout: Layout, size: int, reduction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce by any index → values (B, size, K), positions (B, size, K) or empty.

    Minimum and maximum are the same every time; sums are so where torch is asked for determinism and
    where a shared index is sorted anyway because that is quicker (K >= 8).
    """
    src = layout.src
    if src.numel() == 0 or size == 0:
        shape = (layout.B, size, layout.K)
        out = torch.full(shape, 1 if reduction == "mul" else 0, dtype=src.dtype, device=src.device)
        arg_shape = shape if reduction in ("min", "max") else (0,)
        return out, torch.full(arg_shape, layout.E, dtype=torch.int64, device=src.device)
    ordered = torch.are_deterministic_algorithms_enabled() and reduction in ("sum", "mean")
    shared = layout.shared
    if shared is not None and (layout.K * layout.B >= 8 or ordered or reduction == "mul"):
        return _scatter_sorted(src, shared, size, reduction)
    if ordered or reduction == "mul":
        return _scatter_linear(layout, size, reduction)
    if reduction in ("min", "max"):
        return _atomic_extreme(layout, size, reduction == "max")
    return _atomic_sum(layout, size, reduction == "mean"), torch.empty(
        0, dtype=torch.int64, device=src.device
    )


def _atomic_sum(layout: Layout, size: int, mean: bool) -> torch.Tensor:
    src, index = layout.src, layout.index
    B, E, K = src.shape
    out = torch.zeros((B, size, K), dtype=sum_dtype(src.dtype), device=src.device)
    device = src.device.index
    index_errors.raise_reported(device)
    tail = [index_errors.flag(device)]
    module = _module(atomic_source(src.dtype))
    args = [src, index, out, src.numel(), E, K, size, *index.stride()]
    module.launch("scatter_add", launch_grid(src.numel(), BLOCK), BLOCK, args + tail, src.device)
    if mean:
        # One count serves all that share an index.
        kept = index[: 1 if index.stride(0) == 0 else B, :, : 1 if index.stride(2) == 0 else K]
        count = torch.zeros((kept.shape[0], size, kept.shape[2]), dtype=torch.int32, device=src.device)
        args = [kept, count, kept.numel(), E, kept.shape[2], size, *kept.stride()]
        module.launch("scatter_count", launch_grid(kept.numel(), BLOCK), BLOCK, args + tail, src.device)
        count.clamp_(min=1)
        out = out / count if out.is_floating_point() else out.div(count, rounding_mode="trunc")
    index_errors.after_launch(device)
    return out.to(src.dtype)


def _atomic_extreme(layout: Layout, size: int, largest: bool) -> tuple[torch.Tensor, torch.Tensor]:
    src, index = layout.src, layout.index
    B, E, K = src.shape
    packed = src.dtype.itemsize <= 4 and E < 2**32 - 1
    best = torch.zeros((B, size, K), dtype=torch.int64, device=src.device)
    out = torch.empty((B, size, K), dtype=src.dtype, device=src.device)
    arg = torch.empty(out.shape, dtype=torch.int64, device=src.device)
    device = src.device.index
    index_errors.raise_reported(device)
    module = _module(atomic_source(src.dtype))
    grid = launch_grid(src.numel(), BLOCK)
    geometry = [src.numel(), E, K, size, *index.stride(), int(largest), index_errors.flag(device)]
    if packed:
        module.launch("scatter_extreme_packed", grid, BLOCK, [src, index, best, *geometry], src.device)
    else:
        arg.fill_(E)
        module.launch("scatter_extreme_value", grid, BLOCK, [src, index, best, *geometry], src.device)
        module.launch("scatter_extreme_position", grid, BLOCK, [src, index, best, arg, *geometry], src.device)
    args = [src, best, out, arg, out.numel(), E, K, size, int(packed)]
    module.launch("scatter_extreme_finish", launch_grid(out.numel(), BLOCK), BLOCK, args, src.device)
    index_errors.after_launch(device)
    return out, arg


def gather(src: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return out[b, e, k] = src[b, index[b, e, k], k]; a bad index gives 0 and is reported."""
    B, E, K = index.shape
    src = src.contiguous()
    out = torch.empty((B, E, K), dtype=src.dtype, device=src.device)
    if out.numel() == 0:
        return out
    index_errors.raise_reported(src.device.index)
    args = [
        src,
        index,
        out,
        out.numel(),
        E,
        K,
        src.shape[1],
        *index.stride(),
        index_errors.flag(src.device.index),
    ]
    _module(index_source(src.dtype.itemsize)).launch(
        "gather", launch_grid(out.numel(), BLOCK), BLOCK, args, src.device
    )
    index_errors.after_launch(src.device.index)
    return out


def gather_segments(
    src: torch.Tensor, pointers: torch.Tensor, pointer_stride: int, length: int
) -> torch.Tensor:
    """Return (B, length, K): src (B, N, K) repeated over its segments; 0 where no segment has a position."""
    B, N, K = src.shape
    src = src.contiguous()
    out = torch.empty((B, length, K), dtype=src.dtype, device=src.device)
    if out.numel() == 0:
        return out
    args = [src, pointers, out, out.numel(), length, K, N, pointer_stride]
    _module(index_source(src.dtype.itemsize)).launch(
        "gather_segments", launch_grid(out.numel(), BLOCK), BLOCK, args, src.device
    )
    return out
