"""The same reductions by kernels, on (B, E, K) of a CUDA device."""

from __future__ import annotations

from functools import cache

import torch

from portable_kernels import index_errors
from portable_kernels.compiler import KernelModule, KernelSource, launch_grid
from portable_kernels.scalar_types import CUDA_NAME, WORD_OF_SIZE, sum_dtype
from portable_kernels.scatter.layout import Layout, Start

REDUCTIONS = {"sum": 0, "mean": 1, "mul": 2, "min": 3, "max": 4}
BLOCK = 256
INDEX_TYPES = (torch.int16, torch.int32, torch.int64)
SORT_PAYS_FROM = 8  # elements of B · K that share an index: from here on one sort costs less than atomics


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


def index_source(word_size: int, index_dtype: torch.dtype = torch.int64) -> KernelSource:
    """Return the source of the kernels that move words of some bytes by an index of some type."""
    return KernelSource("index.cu", (("ELEMENT", WORD_OF_SIZE[word_size]), ("INDEX", CUDA_NAME[index_dtype])))


@cache
def _module(source: KernelSource) -> KernelModule:
    return KernelModule(source)


@cache
def _segment_module(dtype: torch.dtype, reduction: str, vector: int) -> KernelModule:
    return _module(segment_source(dtype, reduction, vector))


@cache
def _atomic_module(dtype: torch.dtype) -> KernelModule:
    return _module(atomic_source(dtype))


@cache
def _index_module(word_size: int, index_dtype: torch.dtype = torch.int64) -> KernelModule:
    return _module(index_source(word_size, index_dtype))


def _power_of_two(value: int, most: int) -> int:
    """Return the smallest power of two that is >= value, at most `most`."""
    return min(most, 1 << max(0, value - 1).bit_length())


def _vector(size: int, K: int, *tensors: torch.Tensor) -> int:
    """Return how many elements of `size` bytes along K a thread may take at once: all addresses aligned."""
    vector = 16 // size
    while vector > 1 and (K % vector or any(t.data_ptr() % (vector * size) for t in tensors)):
        vector //= 2
    return vector


def _nothing(device: torch.device) -> torch.Tensor:
    return torch.empty(0, dtype=torch.int64, device=device)


def segment_reduce(
    src: torch.Tensor,
    pointers: torch.Tensor,
    pointer_stride: int,
    segments: int,
    reduction: str,
    start: Start,
    order: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce src (B, E, K) over segments → (B, N, K), positions (B, N, K) or empty. Deterministic.

    `pointers`: (…, N + 1) int64, `pointer_stride` apart from batch to batch; `order` (E,): read through it.
    """
    B, E, K = src.shape
    device = src.device
    out = torch.empty((B, segments, K), dtype=src.dtype, device=device)
    extreme = reduction in ("min", "max")
    arg = torch.empty((B, segments, K), dtype=torch.int64, device=device) if extreme else _nothing(device)
    if out.numel() == 0:
        return out, arg
    vector = min(_vector(src.dtype.itemsize, K, src, out), 4)
    rows = B * segments
    lanes_k = _power_of_two(-(-K // vector), 32)
    lanes_e = _power_of_two(-(-E * B // (rows * 4)), BLOCK // lanes_k)
    per_block = BLOCK // (lanes_k * lanes_e)
    chunks = -(-K // (lanes_k * vector))
    grid = launch_grid(launch_grid(rows, per_block) * chunks, 1)
    geometry = [rows, segments, E, K, pointer_stride, int(start), chunks]
    index_errors.raise_reported(device.index)
    _segment_module(src.dtype, reduction, vector).launch(
        "segment_reduce",
        grid,
        (lanes_k, lanes_e, per_block),
        [src, pointers, order, out, arg, *geometry, index_errors.flag(device.index)],
        device,
    )
    index_errors.after_launch(device.index)
    return out, arg


def pointers_from_sorted(index: torch.Tensor, segments: int) -> torch.Tensor:
    """Sorted index (B, E) in [0, segments) → pointers (B, segments + 1) int64."""
    B, E = index.shape
    pointers = torch.empty((B, segments + 1), dtype=torch.int64, device=index.device)
    device = index.device.index
    index_errors.raise_reported(device)
    args = [index, pointers, B, E, segments, *index.stride(), index_errors.flag(device)]
    _index_module(4, index.dtype).launch(
        "pointers_from_sorted", launch_grid(B * (E + 1), BLOCK), BLOCK, args, index.device
    )
    index_errors.after_launch(device)
    return pointers


def counts_of(pointers: torch.Tensor) -> torch.Tensor:
    """Pointers (B, N + 1) → elements of each segment (B, N, 1), at least 1."""
    return (pointers[:, 1:] - pointers[:, :-1]).clamp_(min=1)[:, :, None]


def count_by_index(index: torch.Tensor, size: int) -> torch.Tensor:
    """Index (B, E, K) → how often each target occurs, (B, size, K) int64, at least 1."""
    B, E, K = index.shape
    count = torch.zeros((B, size, K), dtype=torch.int64, device=index.device)
    if index.numel() and size:
        device = index.device.index
        index_errors.raise_reported(device)
        args = [index, count, index.numel(), E, K, size, *index.stride(), index_errors.flag(device)]
        _atomic_module(torch.float32).launch(
            "scatter_count", launch_grid(index.numel(), BLOCK), BLOCK, args, index.device
        )
        index_errors.after_launch(device)
    return count.clamp_(min=1)


def _key_dtype(size: int) -> torch.dtype:
    """Return the narrowest type for keys below `size`: a radix sort takes a pass a byte."""
    for dtype in INDEX_TYPES[:-1]:
        if size <= torch.iinfo(dtype).max:
            return dtype
    return torch.int64


def sorted_pointers(index: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Index (E,) → the stable order (E,) that sorts it, and the pointers (1, size + 1) of its segments."""
    keys, order = torch.sort(index.clamp(-1, size).to(_key_dtype(size)), stable=True)
    return order, pointers_from_sorted(keys[None], size)


def _scatter_linear(
    layout: Layout, size: int, reduction: str, start: Start
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort and reduce where the index differs along B or K: one long index of all targets."""
    B, E, K = layout.src.shape
    device = layout.src.device
    inside = (layout.index >= 0) & (layout.index < size)
    outer = torch.arange(B, device=device)[:, None, None] * size
    targets = (outer + layout.index) * K + torch.arange(K, device=device)
    targets = torch.where(inside, targets, B * size * K)  # reported as outside by pointers_from_sorted
    order, pointers = sorted_pointers(targets.reshape(-1), B * size * K)
    out, arg = segment_reduce(
        layout.src.reshape(1, -1, 1), pointers, 0, B * size * K, reduction, start, order
    )
    if arg.numel():
        arg = torch.where(arg < B * E * K, (arg // K) % E, E).view(B, size, K)
    return out.view(B, size, K), arg


def scatter_reduce(
    layout: Layout, size: int, reduction: str, start: Start
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce by any index → values (B, size, K), positions (B, size, K) or empty. `reduction`: all but mean.

    Minimum and maximum are the same every time; sums are so where torch is asked for determinism, and where a
    shared index is sorted anyway because that is quicker.
    """
    src = layout.src
    B, E, K = src.shape
    if src.numel() == 0 or size == 0:
        out = torch.zeros((B, size, K), dtype=src.dtype, device=src.device)
        extreme = reduction in ("min", "max")
        return out, torch.full_like(out, E, dtype=torch.int64) if extreme else _nothing(src.device)
    ordered = reduction == "mul" or (torch.are_deterministic_algorithms_enabled() and reduction == "sum")
    shared = layout.shared
    if shared is not None and (ordered or K * B >= SORT_PAYS_FROM):
        order, pointers = sorted_pointers(shared, size)
        return segment_reduce(src, pointers, 0, size, reduction, start, order)
    if ordered:
        return _scatter_linear(layout, size, reduction, start)
    if reduction in ("min", "max"):
        return _atomic_extreme(layout, size, reduction == "max", start)
    return _atomic_sum(layout, size).to(src.dtype), _nothing(src.device)


def scatter_mean(
    layout: Layout, compact: torch.Tensor, size: int, rounding: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean by any index → values (B, size, K), counts of the index without its broadcast axes, at least 1.

    `compact` (B', E, K'): the index to count. `rounding` of integers: floor or trunc.
    """
    src, shared = layout.src, layout.shared
    B, _, K = src.shape
    floating = src.dtype.is_floating_point
    sort_pays = K * B >= SORT_PAYS_FROM or torch.are_deterministic_algorithms_enabled()
    if src.numel() and size and shared is not None and floating and sort_pays:
        order, pointers = sorted_pointers(shared, size)
        out, _ = segment_reduce(src, pointers, 0, size, "mean", Start.ELEMENT, order)
        return out, counts_of(pointers).expand(compact.shape[0], size, compact.shape[2])
    count = count_by_index(compact, size)
    broadcasts = count.shape[0] in (1, B) and count.shape[2] in (1, K)
    divisor = count if broadcasts else count_by_index(layout.index, size)
    if floating and not torch.are_deterministic_algorithms_enabled() and src.numel() and size:
        return (_atomic_sum(layout, size) / divisor).to(src.dtype), count
    out, _ = scatter_reduce(layout, size, "sum", Start.ELEMENT)
    out = out / divisor if floating else out.div(divisor, rounding_mode=rounding)
    return out.to(src.dtype), count


def _atomic_sum(layout: Layout, size: int) -> torch.Tensor:
    """Sum (B, size, K), in the dtype that atomics add up in."""
    src, index = layout.src, layout.index
    B, E, K = src.shape
    out = torch.zeros((B, size, K), dtype=sum_dtype(src.dtype), device=src.device)
    device = src.device.index
    index_errors.raise_reported(device)
    args = [src, index, out, src.numel(), E, K, size, *index.stride(), index_errors.flag(device)]
    _atomic_module(src.dtype).launch("scatter_add", launch_grid(src.numel(), BLOCK), BLOCK, args, src.device)
    index_errors.after_launch(device)
    return out


def _atomic_extreme(
    layout: Layout, size: int, largest: bool, start: Start
) -> tuple[torch.Tensor, torch.Tensor]:
    src, index = layout.src, layout.index
    B, E, K = src.shape
    packed = src.dtype.itemsize <= 4 and E < 2**32 - 1
    best = torch.zeros((B, size, K), dtype=torch.int64, device=src.device)
    out = torch.empty((B, size, K), dtype=src.dtype, device=src.device)
    arg = torch.empty(out.shape, dtype=torch.int64, device=src.device)
    device = src.device.index
    index_errors.raise_reported(device)
    module = _atomic_module(src.dtype)
    grid = launch_grid(src.numel(), BLOCK)
    geometry = [src.numel(), E, K, size, *index.stride(), int(largest), int(start), index_errors.flag(device)]
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


def gather(src: torch.Tensor, index: torch.Tensor, n_is_none: bool = False) -> torch.Tensor:
    """Return out[b, e, k] = src[b, index[b, e, k], k]; a bad index gives 0 and is reported.

    `n_is_none`: the index N gives 0 and is not reported.
    """
    B, E, K = index.shape
    src = src.contiguous()
    out = torch.empty((B, E, K), dtype=src.dtype, device=src.device)
    if out.numel() == 0:
        return out
    size, stride_k = src.dtype.itemsize, index.stride(2)
    # A row that one index serves is moved in the widest words that fit.
    vector = _vector(size, K, src, out) if K == 1 or stride_k == 0 else 1
    device = src.device.index
    index_errors.raise_reported(device)
    total, K = out.numel() // vector, K // vector
    args = [src, index, out, total, E, K, src.shape[1], *index.stride(), int(n_is_none)]
    _index_module(size * vector).launch(
        "gather", launch_grid(total, BLOCK), BLOCK, [*args, index_errors.flag(device)], src.device
    )
    index_errors.after_launch(device)
    return out


def gather_segments(
    src: torch.Tensor, pointers: torch.Tensor, pointer_stride: int, length: int
) -> torch.Tensor:
    """Return (B, length, K): src (B, N, K) repeated over its segments.

    0 where no segment holds a position.
    """
    B, N, K = src.shape
    batches = B if pointer_stride else 1
    index = torch.empty((batches, length), dtype=torch.int64, device=src.device)
    if index.numel():
        args = [pointers, index, index.numel(), length, N, pointer_stride]
        _index_module(4).launch(
            "segment_of_position", launch_grid(index.numel(), BLOCK), BLOCK, args, src.device
        )
    return gather(src, index[:, :, None].expand(B, length, K), n_is_none=True)


def spread(values: torch.Tensor, arg: torch.Tensor, length: int) -> torch.Tensor:
    """Return (B, length, K) of zeros with out[b, arg[b, n, k], k] = values[b, n, k].

    Other positions are none.
    """
    B, N, K = values.shape
    out = torch.zeros((B, length, K), dtype=values.dtype, device=values.device)
    if values.numel() and out.numel():
        args = [values.contiguous(), arg.contiguous(), out, values.numel(), length, K, N]
        _index_module(values.dtype.itemsize).launch(
            "spread", launch_grid(values.numel(), BLOCK), BLOCK, args, values.device
        )
    return out
