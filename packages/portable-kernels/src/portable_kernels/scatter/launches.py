"""The same reductions by kernels, on a CUDA device. Tensors are taken as (B, E, K).

No view of them is made.
"""

from __future__ import annotations

import torch

from portable_kernels import index_errors
from portable_kernels.compiler import launch_grid
from portable_kernels.scalar_types import sum_dtype
from portable_kernels.scatter.geometry import BLOCK, block_count, lanes, vector_width
from portable_kernels.scatter.layout import Place, Shape, Start, as_three, resized, with_rank
from portable_kernels.scatter.sources import INDEX_TYPES, atomic_module, index_module, segment_module

#: Elements from which grouping by target costs less than atomics, for rows of 64 bytes.
GROUPING_PAYS_FROM = 2**22


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
    vector = min(vector_width(src.dtype.itemsize, K, src.data_ptr() | out.data_ptr()), 4)
    log_x, log_l, chunks = lanes(rows, E * B, K // vector)
    blocks = launch_grid(-(-rows // (BLOCK >> (log_x + log_l))) * chunks, 1)
    index_errors.raise_reported(device.index)
    geometry = [rows, segments, E, K, pointer_stride, int(start), chunks, log_x, log_l]
    args = [src, pointers, order, out, arg, *geometry, index_errors.flag_address(device.index)]
    segment_module(src.dtype, reduction, vector).launch("segment_reduce", blocks, BLOCK, args, device)
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
    index_module(4, index.dtype).launch("pointers_from_sorted", block_count(B * (E + 1)), BLOCK, args, device)
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
        atomic_module(torch.float32).launch("scatter_count", block_count(B * E * K), BLOCK, args, device)
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
    module, flag = index_module(4), index_errors.flag_address(device.index)
    index_errors.raise_reported(device.index)
    module.launch(
        "rank_by_index", block_count(E), BLOCK, [index, place.stride_e, counts, rank, E, size, flag], device
    )
    pointers = torch.cumsum(counts, 0, dtype=torch.int64)
    module.launch(
        "order_by_rank",
        block_count(E),
        BLOCK,
        [index, place.stride_e, pointers, rank, order, E, size],
        device,
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
    if floating and not empty and place.shared and compact.dim() == 1 and place.E < 2**31:
        return _mean_by_atomics(src, place, shape, size)
    count = count_by_index(as_three(compact, dim if compact.dim() > 1 else 0), size).view(count_shape)
    if deterministic or empty:
        out = scatter_reduce(src, place, shape, size, "sum", Start.ELEMENT)[0]
    else:
        out = _atomic(src, place, shape, size, "sum")
    divisor = with_rank(count, len(shape), dim)
    out = out.div_(divisor) if out.is_floating_point() else out.div(divisor, rounding_mode=rounding)
    return out if out.dtype == src.dtype else out.to(src.dtype), count


def _mean_by_atomics(
    src: torch.Tensor, place: Place, shape: Shape, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of floating src by a 1-D index that all of it shares → values, counts (size,) of at least 1."""
    device = src.device
    sums = _atomic(src, place, shape, size, "sum")
    counts = torch.zeros(size, dtype=torch.int32, device=device)
    module = atomic_module(src.dtype)
    geometry = [place.E, place.E, 1, size, 0, place.stride_e, 0, index_errors.flag_address(device.index)]
    args = [place.targets, counts, *geometry]
    module.launch("scatter_count_short", block_count(place.E), BLOCK, args, device)
    out = sums if sums.dtype == src.dtype else torch.empty(shape, dtype=src.dtype, device=device)
    counts_out = torch.empty(size, dtype=torch.int64, device=device)
    args = [sums, counts, out, counts_out, out.numel(), size, place.K]
    module.launch("scatter_mean_finish", block_count(out.numel()), BLOCK, args, device)
    index_errors.after_launch(device.index)
    return out, counts_out


def _atomic(src: torch.Tensor, place: Place, shape: Shape, size: int, reduction: str) -> torch.Tensor:
    """Sum or product, in the dtype that atomics work in."""
    device = src.device
    first = torch.ones if reduction == "mul" else torch.zeros
    out = first(shape, dtype=sum_dtype(src.dtype), device=device)
    index_errors.raise_reported(device.index)
    name, total = "scatter_multiply" if reduction == "mul" else "scatter_add", src.numel()
    aligned = src.data_ptr() % min(16, 4 * src.dtype.itemsize) == 0
    if reduction != "mul" and place.stride_k == 0 and place.K % 4 == 0 and aligned:
        name, total = "scatter_add_4", total // 4
    geometry = [total, place.E, place.K, size, *place.strides, index_errors.flag_address(device.index)]
    args = [src, place.targets, out, *geometry]
    atomic_module(src.dtype).launch(name, block_count(total), BLOCK, args, device)
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
    module, grid = atomic_module(src.dtype), block_count(src.numel())
    flag = index_errors.flag_address(device.index)
    geometry = [src.numel(), E, K, size, *place.strides, int(largest), int(start), flag]
    if packed:
        module.launch("scatter_extreme_packed", grid, BLOCK, [src, index, best, *geometry], device)
    else:
        arg.fill_(E)
        module.launch("scatter_extreme_value", grid, BLOCK, [src, index, best, *geometry], device)
        module.launch("scatter_extreme_position", grid, BLOCK, [src, index, best, arg, *geometry], device)
    args = [src, best, out, arg, out.numel(), E, K, size, int(packed)]
    module.launch("scatter_extreme_finish", block_count(out.numel()), BLOCK, args, device)
    index_errors.after_launch(device.index)
    return out, arg
