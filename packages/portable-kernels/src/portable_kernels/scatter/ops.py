"""The primitives on the dispatcher: CPU → reference, CUDA → kernels, fake tensors, autograd.

    reduce_by_index(src, index, dim, size, reduction, is_sorted, start_infinite) → values, extra
    reduce_segments(src, indptr, reduction) → values, extra
    gather_by_index(src, index, dim) · gather_segments(src, indptr, length) · spread(values, arg, dim, length)

`index` has as many dimensions as `src`, each of `src`'s size or 1, and `src`'s size along `dim`; `indptr`
has at most as many, each of `src`'s size or 1, and segments + 1 in its last, which stands along the reduced
dimension. `extra` is int64: positions of the winners for min and max (the reduced length where nothing won),
counts of at least 1 for mean (in `index`'s shape with `size` along `dim`; only by index), otherwise empty.
"""

from __future__ import annotations

from typing import Any

import torch

from portable_kernels import index_errors
from portable_kernels.scatter import launches, reference
from portable_kernels.scatter.layout import Start, as_three, lay_out, resized

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
    layout = lay_out(src, index, dim)
    shape = resized(src.shape, dim, size)
    if reduction == "mean":
        count = reference.count_by_index(as_three(index, dim), size)
        count = _shaped(count, resized(index.shape, dim, size))
        full = as_three(count.expand(shape), dim)
        out = reference.scatter_mean(layout.src, layout.index, full, _rounding(is_sorted))
        return _shaped(out, shape), count
    out, arg = reference.scatter_reduce(layout.src, layout.index, size, reduction, _start(start_infinite))
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
    layout, start = lay_out(src, index, dim), _start(start_infinite)
    shape = resized(src.shape, dim, size)
    extreme = reduction in ("min", "max")
    if is_sorted and src.numel() and size and index.shape[dim + 1 :].numel() == 1:
        # What precedes `dim` keeps its pointers apart, or shares them where the index does.
        rows = as_three(index, dim)[:, :, 0]
        pointers = launches.pointers_from_sorted(rows, size)
        if reduction == "mean":
            counts = launches.counts_of(pointers)
        if rows.shape[0] not in (1, layout.src.shape[0]):
            pointers = launches.pointers_from_sorted(layout.index[:, :, 0], size)
        stride = 0 if pointers.shape[0] == 1 else size + 1
        out, extra = launches.segment_reduce(layout.src, pointers, stride, size, reduction, start)
        if reduction == "mean":
            extra = counts
    elif reduction == "mean":
        out, extra = launches.scatter_mean(layout, as_three(index, dim), size, _rounding(is_sorted))
    else:
        out, extra = launches.scatter_reduce(layout, size, reduction, start)
    if reduction == "mean":
        extra = _shaped(extra.contiguous(), resized(index.shape, dim, size))
    return _shaped(out, shape), _shaped(extra, shape) if extreme else extra


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
        extra = resized(index.shape, dim, size)
    return src.new_empty(shape), src.new_empty(extra, dtype=torch.int64)


def _reduce_by_index_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    src, index, ctx.dim, _, ctx.reduction, *_ = inputs
    ctx.length = src.shape[ctx.dim]
    out, extra = output
    ctx.mark_non_differentiable(extra)
    saved = {"sum": (index,), "mean": (index, extra), "mul": (index, src, out)}
    ctx.save_for_backward(*saved.get(ctx.reduction, (extra,)))


def _reduce_by_index_backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
    if ctx.reduction in ("min", "max"):
        (arg,) = ctx.saved_tensors
        return spread(grad, arg, ctx.dim, ctx.length), *(None,) * 6
    index, *rest = ctx.saved_tensors
    if ctx.reduction == "mean":
        grad = grad / rest[0].to(grad.dtype)
    if ctx.reduction != "mul":
        return gather_by_index(grad, index, ctx.dim), *(None,) * 6
    src, out = rest
    gradient = gather_by_index(grad * out, index, ctx.dim) / src
    # torch_scatter's convention where a factor is 0: no gradient, rather than NaN.
    return gradient.masked_fill(gradient.isnan(), 0), *(None,) * 6


# ------------------------------------------------------------------------------------- gather_by_index

_library.define("gather_by_index(Tensor src, Tensor index, int dim) -> Tensor")


def _index_like(src: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    """Expand an index to `src`'s shape but for `dim`."""
    return index.expand(resized(src.shape, dim, index.shape[dim]))


def _gather_by_index_cpu(src: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    index_errors.check_bounds(index, src.shape[dim])
    index = _index_like(src, index, dim)
    return _shaped(reference.gather(as_three(src, dim), as_three(index, dim)), index.shape)


def _gather_by_index_cuda(src: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    index = _index_like(src, index, dim)
    return _shaped(launches.gather(as_three(src.contiguous(), dim), as_three(index, dim)), index.shape)


def _gather_by_index_fake(src: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    return src.new_empty(resized(src.shape, dim, index.shape[dim]))


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
    """Pointers as (B, N + 1), expanded: stride 0 where all of B share them."""
    dim = indptr.dim() - 1
    rows = indptr.expand(*src.shape[:dim], indptr.shape[-1])
    return rows.reshape(src.shape[:dim].numel(), indptr.shape[-1])


def _pointer_stride(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return pointers contiguous along a row, and how far apart their rows are.

    0 where there is one for all.
    """
    if rows.shape[0] == 1 or rows.stride(0) == 0:
        return rows[0].contiguous(), 0
    return rows.contiguous(), rows.shape[1]


def _reduce_segments_cpu(
    src: torch.Tensor, indptr: torch.Tensor, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    dim = indptr.dim() - 1
    index_errors.check_bounds(indptr, src.shape[dim] + 1)
    out, arg = reference.segment_reduce(as_three(src, dim), _pointer_rows(src, indptr), reduction)
    shape = resized(src.shape, dim, indptr.shape[-1] - 1)
    return _shaped(out, shape), _shaped(arg, shape) if reduction in ("min", "max") else arg


def _reduce_segments_cuda(
    src: torch.Tensor, indptr: torch.Tensor, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    dim, segments = indptr.dim() - 1, indptr.shape[-1] - 1
    pointers, stride = _pointer_stride(_pointer_rows(src, indptr))
    three = as_three(src.contiguous(), dim)
    out, arg = launches.segment_reduce(three, pointers, stride, segments, reduction, Start.ACCUMULATOR)
    shape = resized(src.shape, dim, segments)
    return _shaped(out, shape), _shaped(arg, shape) if reduction in ("min", "max") else arg


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
    ctx.save_for_backward(output[1] if ctx.reduction in ("min", "max") else indptr)


def _reduce_segments_backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
    (saved,) = ctx.saved_tensors
    if ctx.reduction in ("min", "max"):
        return spread(grad, saved, ctx.dim, ctx.length), None, None
    if ctx.reduction == "mean":
        count = (saved[..., 1:] - saved[..., :-1]).clamp(min=1).to(grad.dtype)
        grad = grad / count.reshape(*count.shape, *(1,) * (grad.dim() - count.dim()))
    return gather_segments(grad, saved, ctx.length), None, None


# ------------------------------------------------------------------------------------- gather_segments

_library.define("gather_segments(Tensor src, Tensor indptr, SymInt length) -> Tensor")


def _gather_segments_cpu(src: torch.Tensor, indptr: torch.Tensor, length: int) -> torch.Tensor:
    dim = indptr.dim() - 1
    index_errors.check_bounds(indptr, length + 1)
    out = reference.gather_segments(as_three(src, dim), _pointer_rows(src, indptr), length)
    return _shaped(out, resized(src.shape, dim, length))


def _gather_segments_cuda(src: torch.Tensor, indptr: torch.Tensor, length: int) -> torch.Tensor:
    dim = indptr.dim() - 1
    pointers, stride = _pointer_stride(_pointer_rows(src, indptr))
    out = launches.gather_segments(as_three(src.contiguous(), dim), pointers, stride, length)
    return _shaped(out, resized(src.shape, dim, length))


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
    out = launches.spread(as_three(values, dim), as_three(arg, dim), length)
    return _shaped(out, resized(values.shape, dim, length))


def _spread_fake(values: torch.Tensor, arg: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    return values.new_empty(resized(values.shape, dim, length))


def _spread_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, arg, ctx.dim, ctx.length = inputs
    ctx.save_for_backward(arg)


def _spread_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (arg,) = ctx.saved_tensors
    missing = arg >= ctx.length
    values = (
        grad.gather(ctx.dim, arg.clamp(max=max(ctx.length - 1, 0)))
        if ctx.length
        else grad.new_zeros(arg.shape)
    )
    return values.masked_fill(missing, 0), None, None, None


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

reduce_by_index = torch.ops.portable_kernels.reduce_by_index
gather_by_index = torch.ops.portable_kernels.gather_by_index
reduce_segments = torch.ops.portable_kernels.reduce_segments
gather_segments = torch.ops.portable_kernels.gather_segments
spread = torch.ops.portable_kernels.spread
