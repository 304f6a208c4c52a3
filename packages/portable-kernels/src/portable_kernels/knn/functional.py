"""Nearest neighbours of point clouds: the surface of pytorch3d.ops.knn and pytorch3d.ops.ball_query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from portable_kernels.forward_mode import refuse_tangents
from portable_kernels.knn import launches, ops
from portable_kernels.scatter.direct import is_plain

MOST_POINTS = 2**31 - 1


class KNN(NamedTuple):
    """Neighbours: dists (N, P1, K), idx (N, P1, K) int64, and knn (N, P1, K, D), the points, or None."""

    dists: torch.Tensor
    idx: torch.Tensor
    knn: torch.Tensor | None


def _check_lengths(name: str, lengths: torch.Tensor | None, points: torch.Tensor) -> None:
    if lengths is None:
        return
    if lengths.dtype != torch.int64:
        raise RuntimeError(f"expected scalar type Long but found {lengths.dtype} for {name}")
    if lengths.shape != points.shape[:1]:
        raise ValueError(f"{name} must have shape ({points.shape[0]},), not {tuple(lengths.shape)}")
    if lengths.device != points.device:
        raise RuntimeError(f"the points are on {points.device}, but {name} are on {lengths.device}")


def _check_clouds(
    op: str,
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None,
    lengths2: torch.Tensor | None,
    K: int,
) -> None:
    for name, points in (("pts1", p1), ("pts2", p2)):
        if points.dim() != 3:
            raise ValueError(f"{name} must have shape (N, P, D), not {tuple(points.shape)}")
    if p1.shape[0] != p2.shape[0]:
        raise ValueError("pts1 and pts2 must have the same batch dimension.")
    if p1.shape[2] != p2.shape[2]:
        raise ValueError("pts1 and pts2 must have the same point dimension.")
    if p1.device != p2.device:
        raise RuntimeError(f"the points are on two devices: pts1 on {p1.device}, pts2 on {p2.device}")
    if p1.dtype != p2.dtype:
        raise RuntimeError(f"expected points of the same type, but pts1 are {p1.dtype}, pts2 {p2.dtype}")
    if p1.dtype not in (torch.float32, torch.float64):
        raise RuntimeError(f'"{op}" not implemented for {p1.dtype}; float32 and float64 are')
    if K < 0:
        raise RuntimeError(f"K must not be negative, but is {K}")
    if max(p1.shape[1], p2.shape[1]) > MOST_POINTS:
        raise RuntimeError(f"a cloud of more than {MOST_POINTS} points is more than {op} can number")
    _check_lengths("lengths1", lengths1, p1)
    _check_lengths("lengths2", lengths2, p2)


def _kernels_or(
    operator: Callable[..., Any], cuda: Callable[..., Any], *points: torch.Tensor
) -> Callable[..., Any]:
    """Return the kernels for plain CUDA tensors that need no gradient, otherwise the dispatcher's operator.

    The dispatcher and its Python autograd take longer than a launch.
    """
    needs_gradient = torch.is_grad_enabled() and any(each.requires_grad for each in points)
    return cuda if not needs_gradient and all(is_plain(each) for each in points) else operator


def _contiguous(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _gather(
    x: torch.Tensor, idx: torch.Tensor, lengths: torch.Tensor | None, none_is_minus_one: bool
) -> torch.Tensor:
    out: torch.Tensor = _kernels_or(ops.knn_gather, launches.knn_gather, x)(
        x, idx, lengths, none_is_minus_one
    )
    return out


def knn_points(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None = None,
    lengths2: torch.Tensor | None = None,
    norm: int = 2,
    K: int = 1,
    version: int = -1,
    return_nn: bool = False,
    return_sorted: bool = True,
) -> KNN:
    """Return the K nearest points of p2 for each point of p1, cloud by cloud.

    Args:
        p1: (N, P1, D) float32 or float64, the queries, on the CPU or a CUDA device.
        p2: (N, P2, D), the same dtype and device.
        lengths1, lengths2: (N,) int64, how many points of each cloud count; None: all.
        norm: 1 or 2: distances are sums of magnitudes, or of squares (no root is taken).
        K: how many neighbours.
        version: pytorch3d's choice of kernel; accepted, of no effect.
        return_nn: also gather the neighbours themselves.
        return_sorted: ascending by (distance, index). False on CUDA: ascending by index; on the CPU as True.

    Returns:
        dists: (N, P1, K). 0 from position lengths2[n] on, and for queries from lengths1[n] on.
        idx: (N, P1, K) int64, positions in p2[n]; 0 where dists is padded.
        knn: (N, P1, K, D) if `return_nn`, else None; 0 from position lengths2[n] on.

    Of equal distances the smaller index is nearer; a NaN distance counts as infinite. Gradients of `dists`
    for p1 and p2, once: 2 (p1 - p2) for squares; for magnitudes 1 where p1 > p2, otherwise -1. On CUDA those
    of p2 are summed in no fixed order, in a fixed one under `torch.use_deterministic_algorithms`.

    ValueError: batch or point dimensions that differ, norm other than 1 or 2. RuntimeError: dtypes, devices.
    A length outside [0, P] is a BadIndexError: at once on the CPU; on CUDA it is bounded, and reported as
    `index_errors` says.

    Source: the definitions of `pytorch3d.ops.knn_points` (Ravi et al., «Accelerating 3D Deep Learning with
    PyTorch3D», 2020).
    """
    _check_clouds("knn_points", p1, p2, lengths1, lengths2, K)
    refuse_tangents("knn_points", p1, p2)
    if norm not in (1, 2):
        raise ValueError("Support for 1 or 2 norm.")
    p1, p2 = p1.contiguous(), p2.contiguous()
    lengths1, lengths2 = _contiguous(lengths1), _contiguous(lengths2)
    search = _kernels_or(ops.knn_points, launches.knn_points, p1, p2)
    dists, idx = search(p1, p2, lengths1, lengths2, norm, K, return_sorted)
    return KNN(dists, idx, _gather(p2, idx, lengths2, False) if return_nn else None)


def knn_gather(x: torch.Tensor, idx: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Return x[n, idx[n, l, k]]: features by the indices that `knn_points` gives.

    Args:
        x: (N, M, U), any real dtype.
        idx: (N, L, K) int64 in [0, M).
        lengths: (N,) int64, the length of each cloud of x; None: M.

    Returns (N, L, K, U), 0 where k >= lengths[n]. Differentiable for x, any number of times.

    ValueError: batch dimensions that differ, wrong shapes. BadIndexError for an index outside [0, M): at once
    on the CPU; on CUDA 0 is written there, and it is reported as `index_errors` says.
    """
    if x.dim() != 3 or idx.dim() != 3:
        raise ValueError(
            f"x must have shape (N, M, U) and idx (N, L, K), not {tuple(x.shape)} and {tuple(idx.shape)}"
        )
    if x.shape[0] != idx.shape[0]:
        raise ValueError("x and idx must have same batch dimension.")
    if idx.dtype != torch.int64:
        raise RuntimeError(f"expected scalar type Long but found {idx.dtype} for idx")
    if idx.device != x.device:
        raise RuntimeError(f"x is on {x.device}, but idx is on {idx.device}")
    if x.is_complex():
        raise RuntimeError(f'"knn_gather" not implemented for {x.dtype}')
    _check_lengths("lengths", lengths, x)
    refuse_tangents("knn_gather", x)
    return _gather(x.contiguous(), idx.contiguous(), _contiguous(lengths), False)


def ball_query(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None = None,
    lengths2: torch.Tensor | None = None,
    K: int = 500,
    radius: float = 0.2,
    return_nn: bool = True,
    skip_points_outside_cube: bool = False,
) -> KNN:
    """Return the first K points of p2, in their order, that are nearer than `radius` to each point of p1.

    Args:
        p1, p2, lengths1, lengths2: as for `knn_points`.
        K: at most how many neighbours.
        radius: in the points' units. A point counts where its squared distance < radius², both in the points'
            dtype.
        return_nn: also gather the neighbours themselves.
        skip_points_outside_cube: a point must lie within `radius` along every axis too; this changes nothing
            but roundings.

    Returns:
        dists: (N, P1, K), squared distances; 0 where there are fewer neighbours.
        idx: (N, P1, K) int64, ascending; -1 where there are fewer neighbours.
        knn: (N, P1, K, D) if `return_nn`, else None; 0 where idx is -1.

    Gradients and errors as for `knn_points`.

    Source: C. Qi et al., «PointNet++», NeurIPS 2017; the definitions of `pytorch3d.ops.ball_query`.
    """
    _check_clouds("ball_query", p1, p2, lengths1, lengths2, K)
    refuse_tangents("ball_query", p1, p2)
    p1, p2 = p1.contiguous(), p2.contiguous()
    lengths1, lengths2 = _contiguous(lengths1), _contiguous(lengths2)
    search = _kernels_or(ops.ball_query, launches.ball_query, p1, p2)
    dists, idx = search(p1, p2, lengths1, lengths2, K, float(radius), skip_points_outside_cube)
    return KNN(dists, idx, _gather(p2, idx, None, True) if return_nn else None)
