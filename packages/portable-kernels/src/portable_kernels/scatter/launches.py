"""The same reductions by kernels, on a CUDA device. Tensors are taken as (B, E, K).

No view of them is made.
"""

from __future__ import annotations

from functools import cache
from math import prod

import torch

from portable_kernels import index_errors
from portable_kernels.compiler import KernelModule, KernelSource, launch_grid
from portable_kernels.scalar_types import CUDA_NAME, WORD_OF_SIZE, sum_dtype
from portable_kernels.scatter.layout import Place, Start, as_three, resized, with_rank

REDUCTIONS = {"sum": 0, "mean": 1, "mul": 2, "min": 3, "max": 4}
BLOCK = 256
INDEX_TYPES = (torch.int16, torch.int32, torch.int64)
ENOUGH_THREADS = 2**18  # about what fills a large GPU: below, lanes share a segment
GROUPING_PAYS_FROM = (
    2**22
)  # elements: from here on grouping by target costs less than atomics, for rows of 64 bytes
Shape = tuple[int, ...]


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
def _segment_module(dtype: torch.dtype, reduction: str, vector: int) -> KernelModule:
    return KernelModule(segment_source(dtype, reduction, vector))


@cache
def _atomic_module(dtype: torch.dtype) -> KernelModule:
    return KernelModule(atomic_source(dtype))


@cache
def _index_module(word_size: int, index_dtype: torch.dtype = torch.int64) -> KernelModule:
    return KernelModule(index_source(word_size, index_dtype))


def _blocks(threads: int) -> int:
    return launch_grid(threads, BLOCK)


def _log2_up(value: int, most: int) -> int:
    """Return the smallest exponent whose power of two is >= value, at most `most`."""
    return min(most, max(0, value - 1).bit_length())


def _vector(size: int, K: int, address: int) -> int:
    """Return how many elements of `size` bytes along K a thread may take at once: all addresses aligned.

    `address`: those of all tensors, or-ed.
    """
    vector = 16 // size
    while vector > 1 and (K % vector or address % (vector * size)):
        vector //= 2
    return vector


def _lanes(rows: int, E: int, words: int) -> tuple[int, int, int]:
    """Return log2 of the lanes along K and along a segment, and the chunks of K, for `words` a row.

    As few lanes a segment as fill the GPU, and no more than a segment has elements on average.
    """
    log_x = _log2_up(words, 5)
    chunks = -(-words >> log_x) if words else 1
    wanted = min(-(-E // max(rows, 1)), -(-ENOUGH_THREADS // (rows * chunks << log_x)))
    return log_x, _log2_up(wanted, 8 - log_x), chunks


def _nothing(device: torch.device) -> torch.Tensor:
    return torch.empty(0, dtype=torch.int64, device=device)


def segment_reduce(
    src: torch.Tensor,
    sizes: tuple[int, int, int],
    pointers: torch.Tensor,
    pointer_stride: int,
    shape: Shape,
    segments: int,
    reduction: str,
    start: Start,
    order: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce contiguous src, `sizes` (B, E, K), over segments → values of `shape`, positions or empty.

    `pointers`: (…, N + 1) int64, `pointer_stride` apart from batch to batch; `order` (E,): read through it.
    """
    B, E, K = sizes
    device = src.device
    out = torch.empty(shape, dtype=src.dtype, device=device)
    extreme = reduction in ("min", "max")
    arg = torch.empty(shape, dtype=torch.int64, device=device) if extreme else _nothing(device)
    rows = B * segments
    if rows == 0 or K == 0:
        return out, arg
    vector = min(_vector(src.dtype.itemsize, K, src.data_ptr() | out.data_ptr()), 4)
    log_x, log_l, chunks = _lanes(rows, E * B, K // vector)
    blocks = launch_grid(-(-rows // (BLOCK >> (log_x + log_l))) * chunks, 1)
    index_errors.raise_reported(device.index)
    geometry = [rows, segments, E, K, pointer_stride, int(start), chunks, log_x, log_l]
    args = [src, pointers, order, out, arg, *geometry, index_errors.flag_address(device.index)]
    _segment_module(src.dtype, reduction, vector).launch("segment_reduce", blocks, BLOCK, args, device)
    index_errors.after_launch(device.index)
    return out, arg


def pointers_from_sorted(
    index: torch.Tensor, B: int, E: int, strides: tuple[int, int], segments: int
) -> torch.Tensor:
    """Sorted index, (B, E) by its strides, in [0, segments) → pointers (B, segments + 1) int64."""
    device = index.device
    pointers = torch.empty((B, segments + 1), dtype=torch.int64, device=device)
    index_errors.raise_reported(device.index)
    args = [index, pointers, B, E, segments, *strides, index_errors.flag_address(device.index)]
    _index_module(4, index.dtype).launch("pointers_from_sorted", _blocks(B * (E + 1)), BLOCK, args, device)
    index_errors.after_launch(device.index)
    return pointers


def counts_of(pointers: torch.Tensor) -> torch.Tensor:
    """Pointers (B, N + 1) → elements of each segment (B, N), at least 1."""
    return (pointers[:, 1:] - pointers[:, :-1]).clamp_(min=1)


def count_by_index(index: torch.Tensor, size: int) -> torch.Tensor:
    """Index (B, E, K) → how often each target occurs, (B, size, K) int64, at least 1."""
    B, E, K = index.shape
    count = torch.zeros((B, size, K), dtype=torch.int64, device=index.device)
    if index.numel() and size:
        device = index.device
        index_errors.raise_reported(device.index)
        args = [index, count, B * E * K, E, K, size, *index.stride(), index_errors.flag_address(device.index)]
        _atomic_module(torch.float32).launch("scatter_count", _blocks(B * E * K), BLOCK, args, device)
        index_errors.after_launch(device.index)
    return count.clamp_(min=1)


def _key_dtype(size: int) -> torch.dtype:
    """Return the narrowest type for keys below `size`: a radix sort takes a pass a byte."""
    for dtype in INDEX_TYPES[:-1]:
        if size <= torch.iinfo(dtype).max:
            return dtype
    return torch.int64


def _sorted(index: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Index (E,) → the stable order (E,) that sorts it, and pointers (1, size + 1).

    The same bits every time.
    """
    keys, order = torch.sort(index.clamp(-1, size).to(_key_dtype(size)), stable=True)
    return order, pointers_from_sorted(keys, 1, keys.numel(), (0, 1), size)


def _grouped(place: Place, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A shared index → an order (E,) that groups equal targets, and pointers (1, size + 1).

    By counting, which is quicker than a sort, with atomics: within a group the order changes from run to run.
    Where torch is asked for determinism, by a stable sort.
    """
    index, E = place.targets, place.E
    if torch.are_deterministic_algorithms_enabled() or E >= 2**31:
        return _sorted(index.as_strided((E,), (place.stride_e,)), size)
    device = index.device
    counts = torch.zeros(size + 1, dtype=torch.int32, device=device)
    rank = torch.empty(E, dtype=torch.int32, device=device)
    order = torch.empty(E, dtype=torch.int64, device=device)
    module, flag = _index_module(4), index_errors.flag_address(device.index)
    index_errors.raise_reported(device.index)
    module.launch(
        "rank_by_index", _blocks(E), BLOCK, [index, place.stride_e, counts, rank, E, size, flag], device
    )
    pointers = torch.cumsum(counts, 0, dtype=torch.int64)
    module.launch(
        "order_by_rank", _blocks(E), BLOCK, [index, place.stride_e, pointers, rank, order, E, size], device
    )
    index_errors.after_launch(device.index)
    return order, pointers[None]


def _scatter_linear(
    src: torch.Tensor, place: Place, shape: Shape, size: int, reduction: str, start: Start
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort and reduce where the index differs along B or K: one long index of all targets."""
    _, B, E, K, *strides = place
    device = src.device
    index = place.targets.as_strided((B, E, K), strides)
    inside = (index >= 0) & (index < size)
    outer = torch.arange(B, device=device)[:, None, None] * size
    targets = (outer + index) * K + torch.arange(K, device=device)
    targets = torch.where(inside, targets, B * size * K)  # reported as outside by pointers_from_sorted
    order, pointers = _sorted(targets.reshape(-1), B * size * K)
    sizes = (1, B * E * K, 1)
    out, arg = segment_reduce(src, sizes, pointers, 0, shape, B * size * K, reduction, start, order)
    if arg.numel():
        arg = torch.where(arg < B * E * K, (arg // K) % E, E)
    return out, arg


def _grouping_pays(src: torch.Tensor, place: Place) -> bool:
    """Whether a shared index is better grouped first.

    For wide rows, and enough of them to hide three launches.
    """
    return place.shared and place.K * src.dtype.itemsize >= 64 and src.numel() >= GROUPING_PAYS_FROM


def scatter_reduce(
    src: torch.Tensor, place: Place, shape: Shape, size: int, reduction: str, start: Start
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce contiguous src by any index → values of `shape`, positions or empty. `reduction`: all but mean.

    Minimum and maximum are the same every time; sums and products where torch is asked for determinism.
    """
    extreme = reduction in ("min", "max")
    if src.numel() == 0 or size == 0:
        out = torch.zeros(shape, dtype=src.dtype, device=src.device)
        return out, torch.full_like(out, place.E, dtype=torch.int64) if extreme else _nothing(src.device)
    ordered = not extreme and torch.are_deterministic_algorithms_enabled()
    if place.shared and (ordered or _grouping_pays(src, place)):
        order, pointers = _grouped(place, size)
        return segment_reduce(src, place[1:4], pointers, 0, shape, size, reduction, start, order)
    if ordered:
        return _scatter_linear(src, place, shape, size, reduction, start)
    if extreme:
        return _atomic_extreme(src, place, shape, size, reduction == "max", start)
    out = _atomic(src, place, shape, size, reduction)
    return out if out.dtype == src.dtype else out.to(src.dtype), _nothing(src.device)


def scatter_mean(
    src: torch.Tensor, place: Place, shape: Shape, size: int, compact: torch.Tensor, dim: int, rounding: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean by any index → values of `shape`, counts of at least 1 in `compact`'s shape with `size` along
    `dim`.

    `compact`: the index without its broadcast axes, 1-D along `dim` or of `src`'s rank. `rounding` of
    integers: floor or trunc.
    """
    floating = src.dtype.is_floating_point
    count_shape = resized(compact.shape, dim if compact.dim() > 1 else 0, size)
    deterministic = torch.are_deterministic_algorithms_enabled()
    empty = src.numel() == 0 or size == 0
    if floating and not empty and place.shared and (deterministic or _grouping_pays(src, place)):
        order, pointers = _grouped(place, size)
        out, _ = segment_reduce(src, place[1:4], pointers, 0, shape, size, "mean", Start.ELEMENT, order)
        return out, with_rank(
            counts_of(pointers)[0], len(count_shape), dim if len(count_shape) > 1 else 0
        ).expand(count_shape).contiguous()
    count = count_by_index(as_three(compact, dim if compact.dim() > 1 else 0), size).view(count_shape)
    if deterministic or empty:
        out = scatter_reduce(src, place, shape, size, "sum", Start.ELEMENT)[0]
    else:
        out = _atomic(src, place, shape, size, "sum")
    divisor = with_rank(count, len(shape), dim)
    out = out.div_(divisor) if out.is_floating_point() else out.div(divisor, rounding_mode=rounding)
    return out if out.dtype == src.dtype else out.to(src.dtype), count


def _atomic(src: torch.Tensor, place: Place, shape: Shape, size: int, reduction: str) -> torch.Tensor:
    """Sum or product, in the dtype that atomics work in."""
    device = src.device
    first = torch.ones if reduction == "mul" else torch.zeros
    out = first(shape, dtype=sum_dtype(src.dtype), device=device)
    index_errors.raise_reported(device.index)
    geometry = [src.numel(), place.E, place.K, size, *place.strides, index_errors.flag_address(device.index)]
    _atomic_module(src.dtype).launch(
        "scatter_multiply" if reduction == "mul" else "scatter_add",
        _blocks(src.numel()),
        BLOCK,
        [src, place.targets, out, *geometry],
        device,
    )
    index_errors.after_launch(device.index)
    return out


def _atomic_extreme(
    src: torch.Tensor, place: Place, shape: Shape, size: int, largest: bool, start: Start
) -> tuple[torch.Tensor, torch.Tensor]:
    E, K, device, index = place.E, place.K, src.device, place.targets
    packed = src.dtype.itemsize <= 4 and E < 2**32 - 1
    best = torch.zeros(shape, dtype=torch.int64, device=device)
    out = torch.empty(shape, dtype=src.dtype, device=device)
    arg = torch.empty(shape, dtype=torch.int64, device=device)
    index_errors.raise_reported(device.index)
    module, grid = _atomic_module(src.dtype), _blocks(src.numel())
    flag = index_errors.flag_address(device.index)
    geometry = [src.numel(), E, K, size, *place.strides, int(largest), int(start), flag]
    if packed:
        module.launch("scatter_extreme_packed", grid, BLOCK, [src, index, best, *geometry], device)
    else:
        arg.fill_(E)
        module.launch("scatter_extreme_value", grid, BLOCK, [src, index, best, *geometry], device)
        module.launch("scatter_extreme_position", grid, BLOCK, [src, index, best, arg, *geometry], device)
    args = [src, best, out, arg, out.numel(), E, K, size, int(packed)]
    module.launch("scatter_extreme_finish", _blocks(out.numel()), BLOCK, args, device)
    index_errors.after_launch(device.index)
    return out, arg


def gather(src: torch.Tensor, place: Place, shape: Shape, size: int) -> torch.Tensor:
    """Return out[b, e, k] = src[b, index[b, e, k], k] of `shape`; a bad index gives 0 and is reported.

    src contiguous, (B, size, K); `place` has the sizes of the result.
    """
    device = src.device
    out = torch.empty(shape, dtype=src.dtype, device=device)
    if out.numel() == 0:
        return out
    item, K = src.dtype.itemsize, place.K
    # A row that one index serves is moved in the widest words that fit.
    together = K > 1 and place.stride_k == 0
    vector = _vector(item, K, src.data_ptr() | out.data_ptr()) if together else 1
    total = out.numel() // vector
    index_errors.raise_reported(device.index)
    geometry = [total, place.E, K // vector, size, *place.strides, index_errors.flag_address(device.index)]
    _index_module(item * vector).launch(
        "gather", _blocks(total), BLOCK, [src, place.targets, out, *geometry], device
    )
    index_errors.after_launch(device.index)
    return out


def gather_segments(
    src: torch.Tensor,
    sizes: tuple[int, int, int],
    pointers: torch.Tensor,
    pointer_stride: int,
    shape: Shape,
    length: int,
) -> torch.Tensor:
    """Return values of `shape`: contiguous src, `sizes` (B, N, K), repeated over its segments.

    0 outside them all.
    """
    B, N, K = sizes
    device = src.device
    if src.numel() == 0:
        return torch.zeros(shape, dtype=src.dtype, device=device)
    out = torch.empty(shape, dtype=src.dtype, device=device)
    if out.numel() == 0:
        return out
    item = src.dtype.itemsize
    vector = _vector(item, K, src.data_ptr() | out.data_ptr())
    log_x, log_l, chunks = _lanes(B * N, B * length, K // vector)
    blocks = launch_grid(-(-B * N // (BLOCK >> (log_x + log_l))) * chunks, 1)
    index_errors.raise_reported(device.index)
    geometry = [B * N, N, length, K // vector, pointer_stride, chunks, log_x, log_l]
    args = [src, pointers, out, *geometry, index_errors.flag_address(device.index)]
    _index_module(item * vector).launch("gather_segments", blocks, BLOCK, args, device)
    index_errors.after_launch(device.index)
    return out


def spread(values: torch.Tensor, arg: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    """Return zeros with out[…, arg[…, n, …], …] = values[…, n, …] along `dim`; other positions are none."""
    shape = resized(values.shape, dim, length)
    out = torch.zeros(shape, dtype=values.dtype, device=values.device)
    if values.numel() and out.numel():
        values, arg = values.contiguous(), arg.contiguous()
        args = [values, arg, out, values.numel(), length, prod(shape[dim + 1 :]), values.shape[dim]]
        _index_module(values.dtype.itemsize).launch(
            "spread", _blocks(values.numel()), BLOCK, args, values.device
        )
    return out
