"""The primitives as operators: CPU → reference, CUDA → kernels, fake tensors, autograd.

    reduce_by_index(src, index, dim, size, reduction, is_sorted, start_infinite) → values, extra
    reduce_segments(src, indptr, reduction) → values, extra
    gather_by_index(src, index, dim) · gather_segments(src, indptr, length) · spread(values, arg, dim, length)

`index` is 1-D and stands along `dim`, or has as many dimensions as `src`, each of `src`'s size or 1, and
`src`'s size along `dim`. `indptr` has at most as many as `src`, each of `src`'s size or 1, and segments + 1
in its last, which stands along the reduced dimension. `extra` is int64: positions of the winners for min and
max (the reduced length where nothing won), counts of at least 1 for mean (`index`'s shape with `size` along
`dim`; by index only), otherwise empty.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, prod
from typing import Any

import torch

from portable_kernels import index_errors
from portable_kernels.scatter import gathers, launches, reference
from portable_kernels.scatter.direct import direct_or_dispatched, is_plain
from portable_kernels.scatter.layout import Place, Start, as_three, place, resized, with_rank
from portable_kernels.scatter.transforms import of_winners

NAMESPACE = "portable_kernels"
_library = torch.library.Library(NAMESPACE, "FRAGMENT")


# Results take their shape by `_unsafe_view`: autograd would take a `view` for one, and forbid changing it in
# place.
_shaped = torch.ops.aten._unsafe_view


def _start(start_infinite: bool) -> Start:
    return Start.INFINITE if start_infinite else Start.ELEMENT


# ------------------------------------------------------------------------------------- reduce_by_index

_library.define(
    "reduce_by_index(Tensor src, Tensor index, int dim, SymInt size, str reduction, bool is_sorted=False, "
    "bool start_infinite=False) -> (Tensor, Tensor)"
)


def _rounding(is_sorted: bool) -> str:
    """How integer means round: torch_scatter's scatter_mean down, its segment_mean_coo towards zero."""
    return "trunc" if is_sorted else "floor"


def _reduce_by_index_cpu(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int,
    size: int,
    reduction: str,
    is_sorted: bool = False,
    start_infinite: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    index_errors.check_bounds(index, size)
    shape = resized(src.shape, dim, size)
    full = with_rank(index, src.dim(), dim)
    three, targets = as_three(src, dim), as_three(full.expand(src.shape), dim)
    if reduction == "mean":
        count = reference.count_by_index(as_three(full, dim), size).view(resized(full.shape, dim, size))
        divisor = as_three(count.expand(shape), dim)
        out = reference.scatter_mean(three, targets, divisor, _rounding(is_sorted))
        return _shaped(out, shape), count.view(size) if index.dim() == 1 else count
    out, arg = reference.scatter_reduce(three, targets, size, reduction, _start(start_infinite))
    return _shaped(out, shape), _shaped(arg, shape) if reduction in ("min", "max") else arg


def _reduce_by_index_cuda(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int,
    size: int,
    reduction: str,
    is_sorted: bool = False,
    start_infinite: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    src, shape, start = src.contiguous(), resized(src.shape, dim, size), _start(start_infinite)
    where = place(index, src.shape, dim)
    rows_share = where.K == 1 or where.stride_k == 0
    if is_sorted and rows_share and src.numel() and size:
        return _reduce_sorted(src, index, where, shape, dim, size, reduction, start)
    if reduction == "mean":
        return launches.scatter_mean(src, where, shape, size, index, dim, _rounding(is_sorted))
    return launches.scatter_reduce(src, where, shape, size, reduction, start)


def _reduce_sorted(
    src: torch.Tensor,
    index: torch.Tensor,
    where: Place,
    shape: tuple[int, ...],
    dim: int,
    size: int,
    reduction: str,
    start: Start,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A sorted index makes pointers: one row of them, or one a batch."""
    batches = 1 if where.shared else where.B
    strides = (where.stride_b, where.stride_e)
    pointers = launches.pointers_from_sorted(where.targets, batches, where.E, strides, size)
    stride = 0 if batches == 1 else size + 1
    out, extra = launches.segment_reduce(src, where[1:4], pointers, stride, shape, size, reduction, start)
    if reduction != "mean":
        return out, extra
    if index.dim() == 1 or index.numel() == where.E:
        extra = launches.counts_of(pointers[:1]).view(
            size if index.dim() == 1 else resized(index.shape, dim, size)
        )
    else:
        extra = launches.count_by_index(as_three(index, dim), size).view(resized(index.shape, dim, size))
    return out, extra


def _reduce_by_index_fake(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int,
    size: int,
    reduction: str,
    is_sorted: bool = False,
    start_infinite: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = resized(src.shape, dim, size)
    extra: tuple[int, ...] = (0,)
    if reduction in ("min", "max"):
        extra = shape
    elif reduction == "mean":
        extra = (size,) if index.dim() == 1 else resized(index.shape, dim, size)
    return src.new_empty(shape), src.new_empty(extra, dtype=torch.int64)


def _reduce_by_index_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    src, index, ctx.dim, _, ctx.reduction, *_ = inputs
    ctx.length = src.shape[ctx.dim]
    out, extra = output
    ctx.mark_non_differentiable(extra)
    ctx.set_materialize_grads(False)
    saved = {"sum": (index,), "mean": (index, extra), "mul": (index, src, out)}
    ctx.save_for_backward(*saved.get(ctx.reduction, (extra,)))


def _reduce_by_index_backward(ctx: Any, grad: torch.Tensor | None, _: None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 7
    if ctx.reduction in ("min", "max"):
        (arg,) = ctx.saved_tensors
        return spread(grad, arg, ctx.dim, ctx.length), *(None,) * 6
    index, *rest = ctx.saved_tensors
    if ctx.reduction == "mean":
        count = with_rank(rest[0], grad.dim(), ctx.dim)
        grad = grad / (count.to(grad.dtype) if grad.dtype.itemsize == 2 else count)
    if ctx.reduction != "mul":
        return gather_by_index(grad, index, ctx.dim), *(None,) * 6
    src, out = rest
    if is_plain(grad) and not torch.is_grad_enabled():
        product, src = (grad * out).contiguous(), src.contiguous()
        where = place(index, src.shape, ctx.dim)
        return gathers.multiply_backward(product, src, where, out.shape[ctx.dim]), *(None,) * 6
    gradient = gather_by_index(grad * out, index, ctx.dim).div_(src)
    # torch_scatter's convention where a factor is 0: no gradient, rather than NaN.
    return gradient.nan_to_num_(nan=0.0, posinf=inf, neginf=-inf), *(None,) * 6


# ------------------------------------------------------------------------------------- gather_by_index

_library.define("gather_by_index(Tensor src, Tensor index, int dim) -> Tensor")


def _gathered_shape(src: torch.Tensor, index: torch.Tensor, dim: int) -> tuple[int, ...]:
    return resized(src.shape, dim, index.shape[0 if index.dim() == 1 else dim])


def _gather_by_index_cpu(src: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    index_errors.check_bounds(index, src.shape[dim])
    shape = _gathered_shape(src, index, dim)
    index = with_rank(index, src.dim(), dim).expand(shape)
    return _shaped(reference.gather(as_three(src, dim), as_three(index, dim)), shape)


def _gather_by_index_cuda(src: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    shape = _gathered_shape(src, index, dim)
    return gathers.gather(src.contiguous(), place(index, shape, dim), shape, src.shape[dim])


def _gather_by_index_fake(src: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    return src.new_empty(_gathered_shape(src, index, dim))


def _gather_by_index_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    src, index, ctx.dim = inputs
    ctx.size = src.shape[ctx.dim]
    ctx.save_for_backward(index)


def _gather_by_index_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (index,) = ctx.saved_tensors
    return reduce_by_index(grad, index, ctx.dim, ctx.size, "sum")[0], None, None


# ------------------------------------------------------------------------------------- reduce_segments

_library.define("reduce_segments(Tensor src, Tensor indptr, str reduction) -> (Tensor, Tensor)")


def _pointer_rows(src: torch.Tensor, indptr: torch.Tensor) -> torch.Tensor:
    """Pointers as (B, N + 1), expanded."""
    dim = indptr.dim() - 1
    rows = indptr.expand(*src.shape[:dim], indptr.shape[-1])
    return rows.reshape(prod(src.shape[:dim]), indptr.shape[-1])


def _pointers(src: torch.Tensor, indptr: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return contiguous pointers, and how far apart the rows of a batch are: 0 where there is one for all."""
    if indptr.numel() == indptr.shape[-1]:
        return indptr.contiguous(), 0
    return _pointer_rows(src, indptr).contiguous(), indptr.shape[-1]


def _sizes(src: torch.Tensor, dim: int) -> tuple[int, int, int]:
    """Sizes of `src` as (B, E, K)."""
    return prod(src.shape[:dim]), src.shape[dim], prod(src.shape[dim + 1 :])


def _reduce_segments_cpu(
    src: torch.Tensor, indptr: torch.Tensor, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    dim = indptr.dim() - 1
    index_errors.check_pointers(indptr, src.shape[dim])
    out, arg = reference.segment_reduce(as_three(src, dim), _pointer_rows(src, indptr), reduction)
    shape = resized(src.shape, dim, indptr.shape[-1] - 1)
    return _shaped(out, shape), _shaped(arg, shape) if reduction in ("min", "max") else arg


def _reduce_segments_cuda(
    src: torch.Tensor, indptr: torch.Tensor, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    dim, segments = indptr.dim() - 1, indptr.shape[-1] - 1
    pointers, stride = _pointers(src, indptr)
    shape = resized(src.shape, dim, segments)
    return launches.segment_reduce(
        src.contiguous(), _sizes(src, dim), pointers, stride, shape, segments, reduction, Start.ACCUMULATOR
    )


def _reduce_segments_fake(
    src: torch.Tensor, indptr: torch.Tensor, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = resized(src.shape, indptr.dim() - 1, indptr.shape[-1] - 1)
    extra = shape if reduction in ("min", "max") else (0,)
    return src.new_empty(shape), src.new_empty(extra, dtype=torch.int64)


def _reduce_segments_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    src, indptr, ctx.reduction = inputs
    ctx.dim = indptr.dim() - 1
    ctx.length = src.shape[ctx.dim]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1] if ctx.reduction in ("min", "max") else indptr)


def _reduce_segments_backward(ctx: Any, grad: torch.Tensor | None, _: None) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None
    (saved,) = ctx.saved_tensors
    if ctx.reduction in ("min", "max"):
        return spread(grad, saved, ctx.dim, ctx.length), None, None
    if ctx.reduction == "mean":
        count = (saved[..., 1:] - saved[..., :-1]).clamp(min=1)
        count = count.reshape(*count.shape, *(1,) * (grad.dim() - count.dim()))
        grad = grad / (count.to(grad.dtype) if grad.dtype.itemsize == 2 else count)
    return gather_segments(grad, saved, ctx.length), None, None


# ------------------------------------------------------------------------------------- gather_segments

_library.define("gather_segments(Tensor src, Tensor indptr, SymInt length) -> Tensor")


def _gather_segments_cpu(src: torch.Tensor, indptr: torch.Tensor, length: int) -> torch.Tensor:
    dim = indptr.dim() - 1
    index_errors.check_pointers(indptr, length)
    out = reference.gather_segments(as_three(src, dim), _pointer_rows(src, indptr), length)
    return _shaped(out, resized(src.shape, dim, length))


def _gather_segments_cuda(src: torch.Tensor, indptr: torch.Tensor, length: int) -> torch.Tensor:
    dim = indptr.dim() - 1
    pointers, stride = _pointers(src, indptr)
    shape = resized(src.shape, dim, length)
    return gathers.gather_segments(src.contiguous(), _sizes(src, dim), pointers, stride, shape, length)


def _gather_segments_fake(src: torch.Tensor, indptr: torch.Tensor, length: int) -> torch.Tensor:
    return src.new_empty(resized(src.shape, indptr.dim() - 1, length))


def _gather_segments_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _gather_segments_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (indptr,) = ctx.saved_tensors
    return reduce_segments(grad, indptr, "sum")[0], None, None


# ---------------------------------------------------------------------------------------------- spread

_library.define("spread(Tensor values, Tensor arg, int dim, SymInt length) -> Tensor")


def _spread_cpu(values: torch.Tensor, arg: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    out = reference.spread(as_three(values, dim), as_three(arg, dim), length)
    return _shaped(out, resized(values.shape, dim, length))


def _spread_cuda(values: torch.Tensor, arg: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    return gathers.spread(values, arg, dim, length)


def _spread_fake(values: torch.Tensor, arg: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    return values.new_empty(resized(values.shape, dim, length))


def _spread_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, arg, ctx.dim, ctx.length = inputs
    ctx.save_for_backward(arg)


def _spread_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (arg,) = ctx.saved_tensors
    return of_winners(grad, arg, ctx.dim, ctx.length), None, None, None


# -------------------------------------------------------------------------------------------- registry

_RULES: dict[str, tuple[Any, ...]] = {
    "reduce_by_index": (
        _reduce_by_index_cpu,
        _reduce_by_index_cuda,
        _reduce_by_index_fake,
        _reduce_by_index_context,
        _reduce_by_index_backward,
    ),
    "gather_by_index": (
        _gather_by_index_cpu,
        _gather_by_index_cuda,
        _gather_by_index_fake,
        _gather_by_index_context,
        _gather_by_index_backward,
    ),
    "reduce_segments": (
        _reduce_segments_cpu,
        _reduce_segments_cuda,
        _reduce_segments_fake,
        _reduce_segments_context,
        _reduce_segments_backward,
    ),
    "gather_segments": (
        _gather_segments_cpu,
        _gather_segments_cuda,
        _gather_segments_fake,
        _gather_segments_context,
        _gather_segments_backward,
    ),
    "spread": (_spread_cpu, _spread_cuda, _spread_fake, _spread_context, _spread_backward),
}

for _name, (_cpu, _cuda, _fake, _context, _backward) in _RULES.items():
    _library.impl(_name, _cpu, "CPU")
    _library.impl(_name, _cuda, "CUDA")
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _fake, lib=_library)
    torch.library.register_autograd(f"{NAMESPACE}::{_name}", _backward, setup_context=_context, lib=_library)


def _primitive(name: str) -> Callable[..., Any]:
    _, cuda, _, context, backward = _RULES[name]
    return direct_or_dispatched(name, getattr(torch.ops.portable_kernels, name), cuda, context, backward)


reduce_by_index = _primitive("reduce_by_index")
gather_by_index = _primitive("gather_by_index")
reduce_segments = _primitive("reduce_segments")
gather_segments = _primitive("gather_segments")
spread = _primitive("spread")
