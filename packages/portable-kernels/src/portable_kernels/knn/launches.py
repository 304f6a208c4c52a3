"""The same by kernels, on contiguous tensors of a CUDA device.

Three searches give the same neighbours: comparing all pairs with the points in shared memory (up to 8
dimensions, or any number), and in up to 3 dimensions a tree of boxes, which wins where there are many queries
and points.
"""

from __future__ import annotations

import struct
from functools import cache

import torch

from portable_kernels import index_errors
from portable_kernels.compiler import KernelModule, KernelSource, launch_grid
from portable_kernels.scalar_types import CUDA_NAME, WORD_OF_SIZE, sum_dtype

BLOCK = 256
DIRECT_BLOCK = 128
BALL_QUERIES_A_BLOCK = 16
MOST_DIRECT_DIMENSIONS = 8
MOST_IN_REGISTERS = 32
TREE_DIMENSIONS = 3
TREE_CLOUDS = 8191  # 13 bits of the sort's key
TREE_WIDTH = 32
#: From how many pairs on a tree pays, and up to how many points a query: a warp walks it for 32 queries at
#: once, which is quick where they lie close together. On an H200, K 3: 16,384 queries in as many points take
#: 0.50 ms directly and 0.76 by a tree; 40,962 in as many 2.07 and 1.13; 1,024 in 409,620 points 1.6 and 8.7.
TREE_PAIRS = 1 << 29
TREE_POINTS_A_QUERY = 8
#: Fewer queries than this share lanes, so that the chip is full.
ENOUGH_THREADS = 1 << 16


def search_macros(dtype: torch.dtype, norm: int, K: int) -> tuple[tuple[str, str], ...]:
    """Return the macros of a list of K neighbours: in registers up to 32, a heap in the outputs beyond."""
    registers = K if K <= MOST_IN_REGISTERS else 0
    return (("SCALAR", CUDA_NAME[dtype]), ("NORM", str(norm)), ("K_REGISTERS", str(registers)))


def direct_source(dtype: torch.dtype, norm: int, K: int, dimensions: int) -> KernelSource:
    """Return the source of the search over all pairs."""
    fixed = dimensions if dimensions <= MOST_DIRECT_DIMENSIONS else 0
    return KernelSource("knn_direct.cu", (*search_macros(dtype, norm, K), ("DIMENSIONS", str(fixed))))


def tree_source(dtype: torch.dtype, norm: int, K: int) -> KernelSource:
    """Return the source of the search through a tree, and of building one."""
    return KernelSource("knn_tree.cu", search_macros(dtype, norm, K))


def backward_source(dtype: torch.dtype, norm: int) -> KernelSource:
    """Return the source of the distances' gradients."""
    return KernelSource("knn_backward.cu", (("SCALAR", CUDA_NAME[dtype]), ("NORM", str(norm))))


def ball_source(dtype: torch.dtype, dimensions: int) -> KernelSource:
    """Return the source of the ball query."""
    fixed = dimensions if dimensions <= MOST_DIRECT_DIMENSIONS else 0
    return KernelSource("ball_query.cu", (("SCALAR", CUDA_NAME[dtype]), ("DIMENSIONS", str(fixed))))


def gather_source(word_size: int) -> KernelSource:
    """Return the source that gathers words of some size."""
    return KernelSource("knn_gather.cu", (("ELEMENT", WORD_OF_SIZE[word_size]),))


def gather_backward_source(dtype: torch.dtype) -> KernelSource:
    """Return the source that adds gradients up."""
    macros = (("SCALAR", CUDA_NAME[dtype]), ("SUM_TYPE", CUDA_NAME[sum_dtype(dtype)]))
    return KernelSource("knn_gather.cu", macros)


@cache
def _module(source: KernelSource) -> KernelModule:
    return KernelModule(source)


def _empty_result(p1: torch.Tensor, K: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (p1.shape[0], p1.shape[1], K)
    return p1.new_empty(shape), torch.empty(shape, dtype=torch.int64, device=p1.device)


def tree_pays(p1: torch.Tensor, p2: torch.Tensor) -> bool:
    """Tell whether a tree is worth its building."""
    N, P1, D = p1.shape
    P2 = p2.shape[1]
    fits = 1 <= D <= TREE_DIMENSIONS and N <= TREE_CLOUDS
    return fits and P2 >= 1024 and P2 <= P1 * TREE_POINTS_A_QUERY and N * P1 * P2 >= TREE_PAIRS


def knn_points(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None,
    lengths2: torch.Tensor | None,
    norm: int,
    K: int,
    by_distance: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """p1 (N, P1, D), p2 (N, P2, D) → dists (N, P1, K), idx (N, P1, K) int64; 0 where there is no neighbour.

    In ascending order of the distances, or (`by_distance` False) of the indices.
    """
    dists, idx = _empty_result(p1, K)
    if dists.numel() == 0:
        return dists, idx
    if p1.shape[2] == 0:  # all distances are 0
        p1, p2 = p1.new_zeros((*p1.shape[:2], 1)), p2.new_zeros((*p2.shape[:2], 1))
    device = p1.device.index
    index_errors.raise_reported(device)
    search = _search_tree if tree_pays(p1, p2) else _search_directly
    search(p1, p2, lengths1, lengths2, norm, K, by_distance, dists, idx)
    index_errors.after_launch(device)
    return dists, idx


def _lanes_a_query(queries: int, P2: int, K: int) -> int:
    """Return how many lanes share a query: a power of two up to 32, 1 for lists that are not in registers."""
    lanes = 1
    while K <= MOST_IN_REGISTERS and lanes < 32 and queries * lanes < ENOUGH_THREADS and lanes * 16 <= P2:
        lanes *= 2
    return lanes


def _search_directly(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None,
    lengths2: torch.Tensor | None,
    norm: int,
    K: int,
    by_distance: bool,
    dists: torch.Tensor,
    idx: torch.Tensor,
) -> None:
    N, P1, D = p1.shape
    P2 = p2.shape[1]
    wide = D > MOST_DIRECT_DIMENSIONS
    lanes = 1 if wide else _lanes_a_query(N * P1, P2, K)
    blocks = -(-P1 // (DIRECT_BLOCK // lanes))
    args = [p1, p2, lengths1, lengths2, dists, idx, blocks, P1, P2, D, K, lanes, int(by_distance)]
    _module(direct_source(p1.dtype, norm, K, D)).launch(
        "knn_wide" if wide else "knn_direct",
        launch_grid(N * blocks, 1),
        DIRECT_BLOCK,
        [*args, index_errors.flag(p1.device.index)],
        p1.device,
    )


def _level_sizes(P2: int) -> list[int]:
    """Return how many boxes a cloud's tree has at each of its four levels."""
    sizes = []
    for _ in range(4):
        P2 = -(-P2 // TREE_WIDTH)
        sizes.append(P2)
    return sizes


def _search_tree(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None,
    lengths2: torch.Tensor | None,
    norm: int,
    K: int,
    by_distance: bool,
    dists: torch.Tensor,
    idx: torch.Tensor,
) -> None:
    N, P1, D = p1.shape
    P2, device = p2.shape[1], p1.device
    flag = index_errors.flag(device.index)
    module = _module(tree_source(p1.dtype, norm, K))
    same = p1.data_ptr() == p2.data_ptr() and P1 == P2 and lengths1 is lengths2
    points, total = N * P2, N * P2 if same else N * P2 + N * P1

    bounds = torch.zeros(6 * N, dtype=torch.int32, device=device)
    grid = (min(64, launch_grid(P2, BLOCK)), N)
    module.launch("cloud_bounds", grid, BLOCK, [p2, lengths2, bounds, P2, D, flag], device)
    keys = torch.empty(total, dtype=torch.int64, device=device)
    args = [p1, p2, lengths1, lengths2, bounds, keys, total, points, P1, P2, D, flag]
    module.launch("morton_keys", launch_grid(total, BLOCK), BLOCK, args, device)
    order = keys.sort().indices

    sizes = _level_sizes(P2)
    scalar = p1.dtype.itemsize
    sorted_points = torch.empty(N * P2 * 4 * scalar, dtype=torch.uint8, device=device)
    boxes = [torch.empty(N * size * 8 * scalar, dtype=torch.uint8, device=device) for size in sizes]
    args = [p2, lengths2, order, sorted_points, boxes[0], boxes[1], P2, sizes[0], sizes[1], D, flag]
    module.launch("leaf_boxes", (sizes[1], N), 1024, args, device)
    module.launch("upper_boxes", (sizes[3], N), 1024, [*boxes[1:], *sizes[1:]], device)

    packets_a_cloud = -(-P1 // TREE_WIDTH)
    packets = N * packets_a_cloud
    queries, offset = (order, 0) if same else (order[points:], points)
    args = [p1, p2, lengths1, lengths2, queries, offset, sorted_points, *boxes, dists, idx]
    args += [packets, packets_a_cloud, P1, P2, D, K, int(by_distance), flag]
    module.launch("knn_tree", launch_grid(packets * TREE_WIDTH, DIRECT_BLOCK), DIRECT_BLOCK, args, device)


def ball_query(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None,
    lengths2: torch.Tensor | None,
    K: int,
    radius: float,
    inside_cube: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `knn_points`, but the first K by index with a squared distance < radius²; -1 where there is none."""
    dists, idx = _empty_result(p1, K)
    if dists.numel() == 0:
        return dists, idx
    if p1.shape[2] == 0:
        p1, p2 = p1.new_zeros((*p1.shape[:2], 1)), p2.new_zeros((*p2.shape[:2], 1))
    N, P1, D = p1.shape
    device = p1.device.index
    index_errors.raise_reported(device)
    blocks = -(-P1 // BALL_QUERIES_A_BLOCK)
    radius_bits = struct.unpack("<q", struct.pack("<d", radius))[0]
    args = [p1, p2, lengths1, lengths2, dists, idx, blocks, P1, p2.shape[1], D, K, radius_bits]
    args += [int(inside_cube)]
    _module(ball_source(p1.dtype, D)).launch(
        "ball_query",
        launch_grid(N * blocks, 1),
        32 * BALL_QUERIES_A_BLOCK,
        [*args, index_errors.flag(device)],
        p1.device,
    )
    index_errors.after_launch(device)
    return dists, idx


def knn_backward(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None,
    lengths2: torch.Tensor | None,
    idx: torch.Tensor,
    grad: torch.Tensor,
    norm: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of p1 and p2 from those of the distances (N, P1, K). Sums into p2 in no fixed order."""
    grad_p1, grad_p2 = torch.empty_like(p1), torch.zeros_like(p2)
    if grad_p1.numel():
        P1, D = p1.shape[1:]
        args = [p1, p2, lengths1, lengths2, idx, grad, grad_p1, grad_p2, p1.numel(), P1, p2.shape[1]]
        args += [idx.shape[2], D]
        _module(backward_source(p1.dtype, norm)).launch(
            "knn_backward", launch_grid(p1.numel(), BLOCK), BLOCK, args, p1.device
        )
    return grad_p1, grad_p2


def _word_size(row_bytes: int, *tensors: torch.Tensor) -> int:
    """Return the largest word, up to 16 bytes, that divides a row and that all addresses are aligned to."""
    size = 16
    while size > 1 and (row_bytes % size or any(t.data_ptr() % size for t in tensors)):
        size //= 2
    return size


def _lanes_a_row(words: int) -> int:
    """Return how many threads share a row: a power of two, at most 32."""
    return min(32, 1 << max(0, words - 1).bit_length())


def knn_gather(
    x: torch.Tensor, idx: torch.Tensor, lengths: torch.Tensor | None, none_is_minus_one: bool
) -> torch.Tensor:
    """x (N, M, U), idx (N, L, K) → (N, L, K, U); see `reference`."""
    (_, M, U), (_, L, K) = x.shape, idx.shape
    out = torch.empty((*idx.shape, U), dtype=x.dtype, device=x.device)
    if out.numel():
        device = x.device.index
        index_errors.raise_reported(device)
        row_bytes = U * x.dtype.itemsize
        size = _word_size(row_bytes, x, out)
        lanes = _lanes_a_row(row_bytes // size)
        args = [x, idx, lengths, out, idx.numel(), L, K, row_bytes // size, M, lanes, int(none_is_minus_one)]
        args += [index_errors.flag(device)]
        grid = launch_grid(idx.numel() * lanes, BLOCK)
        _module(gather_source(size)).launch("knn_gather", grid, BLOCK, args, x.device)
        index_errors.after_launch(device)
    return out


def knn_gather_backward(
    grad: torch.Tensor, idx: torch.Tensor, lengths: torch.Tensor | None, M: int, none_is_minus_one: bool
) -> torch.Tensor:
    """The gradient of x (N, M, U). Sums in no fixed order."""
    N, L, K = idx.shape
    U = grad.shape[3]
    out = torch.zeros((N, M, U), dtype=sum_dtype(grad.dtype), device=grad.device)
    if grad.numel():
        lanes = _lanes_a_row(U)
        args = [grad, idx, lengths, out, idx.numel(), L, K, U, M, lanes, int(none_is_minus_one)]
        args += [index_errors.flag(grad.device.index)]
        grid = launch_grid(idx.numel() * lanes, BLOCK)
        source = gather_backward_source(grad.dtype)
        _module(source).launch("knn_gather_backward", grid, BLOCK, args, grad.device)
    return out.to(grad.dtype)
