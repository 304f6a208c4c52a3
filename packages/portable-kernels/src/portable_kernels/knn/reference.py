"""Neighbours in plain PyTorch. They serve the CPU, and the tests trust them.

Neighbours are ordered by (distance, index); a NaN distance counts as infinite. Distances are made of
differences, coordinate by coordinate, not of a matrix product, which would cancel.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

PAIRS_AT_ONCE = 1 << 17  # what fits a core's cache, twice
BLOCK = 64


def full_lengths(lengths: torch.Tensor | None, points: torch.Tensor) -> list[int]:
    """Return each cloud's length; without lengths, all of it."""
    return [points.shape[1]] * points.shape[0] if lengths is None else lengths.tolist()


def _distances(queries: torch.Tensor, points: torch.Tensor, norm: int) -> torch.Tensor:
    """Queries (R, D), points (M, D) → (R, M): sums of squares (norm 2) or of magnitudes (norm 1)."""
    total = queries.new_zeros((queries.shape[0], points.shape[0]))
    difference = torch.empty_like(total)
    for c in range(queries.shape[1]):
        torch.sub(queries[:, c : c + 1], points[:, c], out=difference)
        if norm == 2:
            total.addcmul_(difference, difference)
        else:
            total.add_(difference.abs_())
    return total


def _nearest(distances: torch.Tensor, K: int) -> torch.Tensor:
    """Distances (R, M) without NaN, K <= M → (R, K) positions of the smallest, by (distance, position)."""
    R, M = distances.shape
    if K == M:
        return distances.sort(dim=1, stable=True).indices
    # K blocks whose smallest are at most `bound` hold K distances that are; none of the K nearest is beyond.
    blocks = M // BLOCK
    if blocks >= K:
        smallest = distances[:, : blocks * BLOCK].unflatten(1, (BLOCK, blocks)).amin(1)
    else:
        smallest = distances
    bound = smallest.topk(K, dim=1, largest=False, sorted=False).values.amax(1, keepdim=True)
    row, position = (distances <= bound).nonzero(as_tuple=True)
    order = distances[row, position].argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    counts = row.bincount(minlength=R)
    first = counts.cumsum(0) - counts
    return position[order[first[:, None] + torch.arange(K, device=row.device)]]


def _chunks(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None,
    lengths2: torch.Tensor | None,
    norm: int,
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield (cloud, first query, distances (R, length2)) in bounded memory; leave out empty clouds."""
    both = zip(full_lengths(lengths1, p1), full_lengths(lengths2, p2), strict=True)
    for n, (length1, length2) in enumerate(both):
        if length2 == 0:
            continue
        rows = max(1, PAIRS_AT_ONCE // length2)
        for first in range(0, length1, rows):
            queries = p1[n, first : min(first + rows, length1)]
            yield n, first, _distances(queries, p2[n, :length2], norm)


def knn_points(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None,
    lengths2: torch.Tensor | None,
    norm: int,
    K: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """p1 (N, P1, D), p2 (N, P2, D) → dists (N, P1, K), idx (N, P1, K) int64, ascending; else 0."""
    N, P1, _ = p1.shape
    dists = p1.new_zeros((N, P1, K))
    idx = torch.zeros((N, P1, K), dtype=torch.int64, device=p1.device)
    if K == 0:
        return dists, idx
    finite = bool(p1.isfinite().all() and p2.isfinite().all())  # then no distance is NaN
    for n, first, distances in _chunks(p1, p2, lengths1, lengths2, norm):
        rows, found = slice(first, first + distances.shape[0]), min(K, distances.shape[1])
        keys = distances if finite else distances.masked_fill(distances.isnan(), float("inf"))
        best = _nearest(keys, found)
        dists[n, rows, :found] = distances.gather(1, best)
        idx[n, rows, :found] = best
    return dists, idx


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
    N, P1, _ = p1.shape
    dists = p1.new_zeros((N, P1, K))
    idx = torch.full((N, P1, K), -1, dtype=torch.int64, device=p1.device)
    bound = p1.new_tensor(radius)
    for n, first, distances in _chunks(p1, p2, lengths1, lengths2, 2):
        within = distances < float(bound * bound)
        if inside_cube:
            queries = p1[n, first : first + distances.shape[0]]
            for c in range(p1.shape[2]):
                away = (queries[:, c : c + 1] - p2[n, : distances.shape[1], c]).abs()
                within &= away <= float(bound)
        rank = within.cumsum(1)
        row, j = (within & (rank <= K)).nonzero(as_tuple=True)
        k = rank[row, j] - 1
        dists[n, first + row, k] = distances[row, j]
        idx[n, first + row, k] = j
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
    """Gradients of p1, p2 from those of the distances (N, P1, K). On any device, the same every time."""
    N, P1, D = p1.shape
    P2, K = p2.shape[1], idx.shape[2]
    counts = (idx >= 0) & (idx < P2)
    if lengths1 is not None:
        counts &= (torch.arange(P1, device=p1.device) < lengths1[:, None])[:, :, None]
    counts &= torch.arange(K, device=p1.device) < (P2 if lengths2 is None else lengths2[:, None, None])
    n, p, k = counts.nonzero(as_tuple=True)
    j = idx[n, p, k]
    there = n * P2 + j
    here, neighbour, weight = p1[n, p], p2[n, j], grad[n, p, k][:, None]
    if norm == 2:
        share = 2 * weight * (here - neighbour)
    else:
        share = torch.where(here > neighbour, weight, -weight)
    grad_p1 = p1.new_zeros((N * P1, D)).index_put_((n * P1 + p,), share, accumulate=True)
    grad_p2 = p2.new_zeros((N * P2, D)).index_put_((there,), -share, accumulate=True)
    return grad_p1.view(N, P1, D), grad_p2.view(N, P2, D)


def _counts(idx: torch.Tensor, lengths: torch.Tensor | None, M: int, none_is_minus_one: bool) -> torch.Tensor:
    """Return which neighbours (N, L, K) count."""
    k = torch.arange(idx.shape[2], device=idx.device)
    counts = (k < (M if lengths is None else lengths[:, None, None])).expand(idx.shape)
    return counts & (idx != -1) if none_is_minus_one else counts


def counted_indices(
    idx: torch.Tensor, lengths: torch.Tensor | None, M: int, none_is_minus_one: bool
) -> torch.Tensor:
    """Return the indices that `knn_gather` would read by."""
    return idx[_counts(idx, lengths, M, none_is_minus_one)]


def _kept(
    idx: torch.Tensor, lengths: torch.Tensor | None, M: int, none_is_minus_one: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which neighbours (N, L, K) count and exist, and their rows in (N · M, U), 0 for the others."""
    kept = _counts(idx, lengths, M, none_is_minus_one) & (idx >= 0) & (idx < M)
    rows = idx + torch.arange(idx.shape[0], device=idx.device)[:, None, None] * M
    return kept, torch.where(kept, rows, 0)


def knn_gather(
    x: torch.Tensor, idx: torch.Tensor, lengths: torch.Tensor | None, none_is_minus_one: bool
) -> torch.Tensor:
    """x (N, M, U), idx (N, L, K) → (N, L, K, U); 0 from lengths[n] on, and for -1 as none."""
    N, M, U = x.shape
    if M == 0:
        return x.new_zeros((*idx.shape, U))
    kept, rows = _kept(idx, lengths, M, none_is_minus_one)
    return x.reshape(N * M, U)[rows].masked_fill_(~kept[..., None], 0)


def knn_gather_backward(
    grad: torch.Tensor, idx: torch.Tensor, lengths: torch.Tensor | None, M: int, none_is_minus_one: bool
) -> torch.Tensor:
    """The gradient of x (N, M, U). Runs on any device, the same every time."""
    N, U = idx.shape[0], grad.shape[3]
    kept, rows = _kept(idx, lengths, M, none_is_minus_one)
    out = grad.new_zeros((N * M, U)).index_put_((rows[kept],), grad[kept], accumulate=True)
    return out.view(N, M, U)
