"""Neighbours on the dispatcher: CPU → reference, CUDA → kernels, fake tensors, autograd.

    knn_points(p1, p2, lengths1, lengths2, norm, K, by_distance) → dists, idx
    ball_query(p1, p2, lengths1, lengths2, K, radius, inside_cube) → dists, idx
    knn_backward(p1, p2, lengths1, lengths2, idx, grad, norm) → grad_p1, grad_p2
    knn_gather(x, idx, lengths, none_is_minus_one) → rows
    knn_gather_backward(grad, idx, lengths, M, none_is_minus_one) → grad_x

Distances can be differentiated once, as in pytorch3d; `knn_gather` is linear and can be any number of times.
Under `torch.use_deterministic_algorithms` the gradients on CUDA come from the reference, the same every time.
"""

from __future__ import annotations

from typing import Any

import torch

from portable_kernels.errors import BadIndexError
from portable_kernels.index_errors import check_bounds
from portable_kernels.knn import launches, reference
from portable_kernels.scatter.direct import is_plain

NAMESPACE = "portable_kernels"
_library = torch.library.Library(NAMESPACE, "FRAGMENT")

_CLOUDS = "Tensor p1, Tensor p2, Tensor? lengths1, Tensor? lengths2"
_library.define(f"knn_points({_CLOUDS}, int norm, SymInt K, bool by_distance) -> (Tensor, Tensor)")
_library.define(f"ball_query({_CLOUDS}, SymInt K, float radius, bool inside_cube) -> (Tensor, Tensor)")
_library.define(f"knn_backward({_CLOUDS}, Tensor idx, Tensor grad, int norm) -> (Tensor, Tensor)")
_library.define("knn_gather(Tensor x, Tensor idx, Tensor? lengths, bool none_is_minus_one) -> Tensor")
_library.define(
    "knn_gather_backward(Tensor grad, Tensor idx, Tensor? lengths, SymInt M, bool none_is_minus_one) "
    "-> Tensor"
)


def _check_lengths(points: torch.Tensor, lengths: torch.Tensor | None) -> None:
    if lengths is None or lengths.numel() == 0:
        return
    most = points.shape[1]
    low, high = (int(bound) for bound in lengths.aminmax())
    if low < 0 or high > most:
        wrong = low if low < 0 else high
        raise BadIndexError(f"portable_kernels: length {wrong} of a cloud is outside [0, {most}]")


# ------------------------------------------------------------------------------------------ the distances


def _knn_points_cpu(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None,
    lengths2: torch.Tensor | None,
    norm: int,
    K: int,
    by_distance: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """By distance in either case, as pytorch3d's on the CPU."""
    _check_lengths(p1, lengths1)
    _check_lengths(p2, lengths2)
    return reference.knn_points(p1, p2, lengths1, lengths2, norm, K)


def _ball_query_cpu(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None,
    lengths2: torch.Tensor | None,
    K: int,
    radius: float,
    inside_cube: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    _check_lengths(p1, lengths1)
    _check_lengths(p2, lengths2)
    return reference.ball_query(p1, p2, lengths1, lengths2, K, radius, inside_cube)


def _backward_cuda(
    p1: torch.Tensor,
    p2: torch.Tensor,
    lengths1: torch.Tensor | None,
    lengths2: torch.Tensor | None,
    idx: torch.Tensor,
    grad: torch.Tensor,
    norm: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    ordered = torch.are_deterministic_algorithms_enabled()
    backward = reference.knn_backward if ordered else launches.knn_backward
    return backward(p1, p2, lengths1, lengths2, idx, grad.contiguous(), norm)


def _knn_points_fake(
    p1: torch.Tensor, p2: Any, lengths1: Any, lengths2: Any, norm: Any, K: int, by: Any
) -> Any:
    shape = (p1.shape[0], p1.shape[1], K)
    return p1.new_empty(shape), p1.new_empty(shape, dtype=torch.int64)


def _ball_query_fake(
    p1: torch.Tensor, p2: Any, lengths1: Any, lengths2: Any, K: int, radius: Any, in_: Any
) -> Any:
    return _knn_points_fake(p1, p2, lengths1, lengths2, 2, K, True)


def _backward_fake(p1: torch.Tensor, p2: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(p1), torch.empty_like(p2)


def _distances_context(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...], norm: int
) -> None:
    p1, p2, lengths1, lengths2, *_ = inputs
    ctx.norm = norm
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(p1, p2, lengths1, lengths2, output[1])


def _knn_points_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    _distances_context(ctx, inputs, output, inputs[4])


def _ball_query_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    _distances_context(ctx, inputs, output, 2)


def _distances_backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
    plain = is_plain(grad) and not torch.is_grad_enabled()  # then the dispatcher is a detour
    backward: Any = _backward_cuda if plain else knn_backward
    return *backward(*ctx.saved_tensors, grad, ctx.norm), *(None,) * 5


def _once_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    pass


def _once_backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
    raise RuntimeError("the distances of neighbours can be differentiated only once, as in pytorch3d")


# ------------------------------------------------------------------------------------------ rows by
# neighbours


def _gather_cpu(
    x: torch.Tensor, idx: torch.Tensor, lengths: torch.Tensor | None, none_is_minus_one: bool
) -> torch.Tensor:
    counted = reference.counted_indices(idx, lengths, x.shape[1], none_is_minus_one)
    check_bounds(counted, x.shape[1])
    return reference.knn_gather(x, idx, lengths, none_is_minus_one)


def _gather_backward_cuda(
    grad: torch.Tensor, idx: torch.Tensor, lengths: torch.Tensor | None, M: int, none_is_minus_one: bool
) -> torch.Tensor:
    ordered = torch.are_deterministic_algorithms_enabled()
    backward = reference.knn_gather_backward if ordered else launches.knn_gather_backward
    return backward(grad.contiguous(), idx, lengths, M, none_is_minus_one)


def _gather_fake(x: torch.Tensor, idx: torch.Tensor, lengths: Any, none_is_minus_one: bool) -> torch.Tensor:
    return x.new_empty((*idx.shape, x.shape[2]))


def _gather_backward_fake(
    grad: torch.Tensor, idx: torch.Tensor, lengths: Any, M: int, none: bool
) -> torch.Tensor:
    return grad.new_empty((idx.shape[0], M, grad.shape[3]))


def _gather_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, idx, lengths, ctx.none_is_minus_one = inputs
    ctx.M = x.shape[1]
    ctx.save_for_backward(idx, lengths)


def _gather_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    idx, lengths = ctx.saved_tensors
    return knn_gather_backward(grad, idx, lengths, ctx.M, ctx.none_is_minus_one), None, None, None


def _gather_backward_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, idx, lengths, _, ctx.none_is_minus_one = inputs
    ctx.save_for_backward(idx, lengths)


def _gather_backward_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    idx, lengths = ctx.saved_tensors
    return knn_gather(grad.contiguous(), idx, lengths, ctx.none_is_minus_one), None, None, None, None


# ------------------------------------------------------------------------------------------ registry

_RULES: dict[str, tuple[Any, Any, Any]] = {
    "knn_points": (_knn_points_cpu, launches.knn_points, _knn_points_fake),
    "ball_query": (_ball_query_cpu, launches.ball_query, _ball_query_fake),
    "knn_backward": (reference.knn_backward, _backward_cuda, _backward_fake),
    "knn_gather": (_gather_cpu, launches.knn_gather, _gather_fake),
    "knn_gather_backward": (reference.knn_gather_backward, _gather_backward_cuda, _gather_backward_fake),
}
_GRADIENTS: dict[str, tuple[Any, Any]] = {
    "knn_points": (_distances_backward, _knn_points_context),
    "ball_query": (_distances_backward, _ball_query_context),
    "knn_backward": (_once_backward, _once_context),
    "knn_gather": (_gather_backward, _gather_context),
    "knn_gather_backward": (_gather_backward_backward, _gather_backward_context),
}

for _name, (_cpu, _cuda, _fake) in _RULES.items():
    _library.impl(_name, _cpu, "CPU")
    _library.impl(_name, _cuda, "CUDA")
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _fake, lib=_library)
for _name, (_backward, _context) in _GRADIENTS.items():
    torch.library.register_autograd(f"{NAMESPACE}::{_name}", _backward, setup_context=_context, lib=_library)

knn_points = torch.ops.portable_kernels.knn_points
ball_query = torch.ops.portable_kernels.ball_query
knn_backward = torch.ops.portable_kernels.knn_backward
knn_gather = torch.ops.portable_kernels.knn_gather
knn_gather_backward = torch.ops.portable_kernels.knn_gather_backward
