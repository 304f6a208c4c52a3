"""What torch_scatter 2.1.2 registers with the dispatcher, over the primitives: `out`, `dim_size`,
broadcasting.

`register("torch_scatter")` makes `torch.ops.torch_scatter.*` with the original's schemas; the same stand
under `torch.ops.portable_kernels.*` always. They decompose into primitives, which carry autograd and fake
tensors. Source of the behaviour: https://github.com/rusty1s/pytorch_scatter at 2.1.2 (interfaces, checks,
conventions).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from portable_kernels.scalar_types import CUDA_NAME
from portable_kernels.scatter import ops
from portable_kernels.scatter.arguments import check_out, check_tensors
from portable_kernels.scatter.layout import broadcast_index, compact_index, positive_dim, resized, with_rank

# ---------------------------------------------------------------------------------------- the arguments


def _size_along(index: torch.Tensor, dim: int, out: torch.Tensor | None, dim_size: int | None) -> int:
    """Return the result's size along `dim`: that of `out`, `dim_size`, or the largest index and one."""
    if out is not None:
        return out.shape[dim]
    if dim_size is not None:
        if dim_size < 0:
            raise RuntimeError(f"dim_size must not be negative, but is {dim_size}")
        return dim_size
    return int(index.max()) + 1 if index.numel() else 0


def _cover_dim(index: torch.Tensor, dim: int, src: torch.Tensor) -> torch.Tensor:
    """Return an index as the primitives take it.

    1-D along `dim`, or broadcast but without its broadcast axes. None of it counts where `src` is empty.
    """
    if index.dim() == 1 and index.shape[0] == src.shape[dim] and src.numel():
        return index
    return compact_index(broadcast_index(index, src, dim), dim)


# ------------------------------------------------------------------------------------ merging into `out`


def _merge_extreme(
    out: torch.Tensor, values: torch.Tensor, arg: torch.Tensor, largest: bool, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put the values that beat `out` into it → (out, positions), `length` where it stayed."""
    better = (values > out if largest else values < out) & (arg < length)
    out.copy_(torch.where(better, values, out))
    return out, torch.where(better, arg, length)


def _merge(
    out: torch.Tensor, values: torch.Tensor, reduction: str, count: torch.Tensor, dim: int, rounding: str
) -> torch.Tensor:
    """Merge sums or products into `out`, as torch_scatter does by starting from it."""
    if reduction == "mul":
        return out.mul_(values)
    out.add_(values)
    if reduction == "mean":
        count = with_rank(count, out.dim(), dim)
        out.div_(count) if out.is_floating_point() else out.div_(count, rounding_mode=rounding)
    return out


# ------------------------------------------------------------------------------------------------ scatter


def _scatter_value(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int,
    optional_out: torch.Tensor | None,
    dim_size: int | None,
    *,
    reduction: str,
) -> torch.Tensor:
    out, dim = optional_out, positive_dim(dim, src.dim())
    if reduction == "sum" and src.dtype not in CUDA_NAME:
        return _sum_of_other_dtypes(src, index, dim, out, dim_size)
    check_tensors("index", src, index, out)
    index = _cover_dim(index, dim, src)
    if out is None:
        return ops.reduce_by_index(src, index, dim, _size_along(index, dim, out, dim_size), reduction)[0]
    if reduction == "mul":
        check_out(out, src, dim)
    if src.numel() == 0 and reduction == "mul":
        return out
    target = _leading_part(out, src, dim)
    # A mean adds to what stands in `out`, then divides all of it.
    values, count = ops.reduce_by_index(src, index, dim, out.shape[dim], reduction)
    if reduction == "mean":
        values = ops.reduce_by_index(src, index, dim, out.shape[dim], "sum")[0]
    _merge(target, values, reduction, count, dim, "floor")
    return out


def _leading_part(out: torch.Tensor, src: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the part of `out` that `src` covers.

    Sums go into an `out` that is larger elsewhere, as torch's do.
    """
    if out.dim() != src.dim():
        check_out(out, src, dim)
    for axis, size in enumerate(src.shape):
        if axis != dim:
            if out.shape[axis] < size:
                check_out(out, src, dim)
            out = out.narrow(axis, 0, size)
    return out


def _sum_of_other_dtypes(
    src: torch.Tensor, index: torch.Tensor, dim: int, out: torch.Tensor | None, dim_size: int | None
) -> torch.Tensor:
    """Complex numbers and booleans: torch's own scatter_add, as in the original."""
    index = broadcast_index(index, src, dim)
    if out is None:
        out = src.new_zeros(resized(src.shape, dim, _size_along(index, dim, out, dim_size)))
    return out.scatter_add_(dim, index, src)


def _scatter_extreme(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int,
    optional_out: torch.Tensor | None,
    dim_size: int | None,
    *,
    largest: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    out, dim = optional_out, positive_dim(dim, src.dim())
    check_tensors("index", src, index, out)
    index = _cover_dim(index, dim, src)
    if out is not None:
        check_out(out, src, dim)
    return _extreme_by_index(src, index, dim, out, dim_size, largest, False)


def _extreme_by_index(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int,
    out: torch.Tensor | None,
    dim_size: int | None,
    largest: bool,
    is_sorted: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    reduction = "max" if largest else "min"
    size = _size_along(index, dim, out, dim_size)
    values, arg = ops.reduce_by_index(src, index, dim, size, reduction, is_sorted, out is not None)
    return (values, arg) if out is None else _merge_extreme(out, values, arg, largest, src.shape[dim])


def of_target(values: torch.Tensor, index: torch.Tensor, src: torch.Tensor, dim: int) -> torch.Tensor:
    """Return in `src`'s shape what `values`, a result of scatter, holds for each element's target."""
    dim = positive_dim(dim, src.dim())
    return ops.gather_by_index(values, _cover_dim(index, dim, src), dim)


# -------------------------------------------------------------------------------------------- segment_coo


def _coo_index(src: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return a sorted index (…, E) with `src`'s rank, and the dimension that it reduces: its last."""
    if index.dim() > src.dim() or index.dim() == 0:
        raise RuntimeError(f"Input mismatch: index has {index.dim()} dimensions, src has {src.dim()}")
    dim = index.dim() - 1
    if index.dim() == 1 and index.shape[0] == src.shape[0]:
        return index, 0
    index = index.expand(src.shape[: index.dim()])
    return compact_index(index.reshape(*index.shape, *(1,) * (src.dim() - index.dim())), dim), dim


def _segment_coo_value(
    src: torch.Tensor,
    index: torch.Tensor,
    optional_out: torch.Tensor | None,
    dim_size: int | None,
    *,
    reduction: str,
) -> torch.Tensor:
    out = optional_out
    check_tensors("index", src, index, out)
    index, dim = _coo_index(src, index)
    if out is not None:
        check_out(out, src, dim)
    size = _size_along(index, dim, out, dim_size)
    values, count = ops.reduce_by_index(src, index, dim, size, reduction, True)
    if out is None:
        return values
    if reduction == "mean":
        values = ops.reduce_by_index(src, index, dim, size, "sum", True)[0]
    return _merge(out, values, reduction, count, dim, "trunc")


def _segment_coo_extreme(
    src: torch.Tensor,
    index: torch.Tensor,
    optional_out: torch.Tensor | None,
    dim_size: int | None,
    *,
    largest: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    check_tensors("index", src, index, optional_out)
    index, dim = _coo_index(src, index)
    if optional_out is not None:
        check_out(optional_out, src, dim)
    return _extreme_by_index(src, index, dim, optional_out, dim_size, largest, True)


def _gather_coo(src: torch.Tensor, index: torch.Tensor, optional_out: torch.Tensor | None) -> torch.Tensor:
    check_tensors("index", src, index, optional_out)
    if index.dim() > src.dim() or index.dim() == 0:
        raise RuntimeError(f"Input mismatch: index has {index.dim()} dimensions, src has {src.dim()}")
    dim = index.dim() - 1
    if dim:
        index = index.expand(*src.shape[:dim], index.shape[dim])
    if index.device.type == "cpu" and bool((index[..., 1:] < index[..., :-1]).any()):
        raise RuntimeError("Input mismatch: index is not sorted")
    if dim:
        index = compact_index(index.reshape(*index.shape, *(1,) * (src.dim() - index.dim())), dim)
    if src.numel() == 0 or index.numel() == 0:
        shape = resized(src.shape, dim, index.shape[dim])
        values = src.new_zeros(shape) if src.numel() == 0 and index.numel() else src.expand(shape)
    else:
        values = ops.gather_by_index(src, index, dim)
    if optional_out is None:
        return values
    check_out(optional_out, src, dim)
    if optional_out.shape[dim] != index.shape[dim]:
        raise RuntimeError(
            f"Input mismatch: out has {optional_out.shape[dim]} entries along {dim}, index {index.shape[dim]}"
        )
    return optional_out.copy_(values)


# -------------------------------------------------------------------------------------------- segment_csr


def _csr_pointers(src: torch.Tensor, indptr: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return pointers (…, N + 1) without broadcast axes, and the dimension that they reduce: their last."""
    if indptr.dim() > src.dim() or indptr.dim() == 0:
        raise RuntimeError(f"Input mismatch: indptr has {indptr.dim()} dimensions, src has {src.dim()}")
    dim = indptr.dim() - 1
    if indptr.shape[dim] == 0:
        indptr = indptr.new_zeros((*indptr.shape[:dim], 1))
    if dim == 0:
        return indptr, 0
    return compact_index(indptr.expand(*src.shape[:dim], indptr.shape[dim]), dim), dim


def _segment_csr(
    src: torch.Tensor, indptr: torch.Tensor, optional_out: torch.Tensor | None, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    check_tensors("indptr", src, indptr, optional_out)
    indptr, dim = _csr_pointers(src, indptr)
    out = optional_out
    if out is not None:
        check_out(out, src, dim)
        if src.numel() and out.shape[dim] != indptr.shape[dim] - 1:
            raise RuntimeError(
                f"Input mismatch: out has {out.shape[dim]} entries along {dim}, indptr makes "
                f"{indptr.shape[dim] - 1} segments"
            )
    values, arg = ops.reduce_segments(src, indptr, reduction)
    if out is None:
        return values, arg
    return (out.copy_(values), arg) if src.numel() else (out, torch.full_like(out, 0, dtype=torch.int64))


def _segment_csr_value(
    src: torch.Tensor, indptr: torch.Tensor, optional_out: torch.Tensor | None, *, reduction: str
) -> torch.Tensor:
    return _segment_csr(src, indptr, optional_out, reduction)[0]


def _segment_csr_extreme(
    src: torch.Tensor, indptr: torch.Tensor, optional_out: torch.Tensor | None, *, largest: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return _segment_csr(src, indptr, optional_out, "max" if largest else "min")


def _gather_csr(src: torch.Tensor, indptr: torch.Tensor, optional_out: torch.Tensor | None) -> torch.Tensor:
    check_tensors("indptr", src, indptr, optional_out)
    indptr, dim = _csr_pointers(src, indptr)
    if src.shape[dim] not in (0, indptr.shape[dim] - 1):
        raise RuntimeError(
            f"Input mismatch: src has {src.shape[dim]} entries along {dim}, indptr makes "
            f"{indptr.shape[dim] - 1} segments"
        )
    if optional_out is None:
        length = int(indptr.flatten()[-1]) if src.numel() else 0
        return _gather_segments(src, indptr, length, dim)
    out = optional_out
    check_out(out, src, dim)
    if src.numel() == 0:
        return out
    position = torch.arange(out.shape[dim], device=out.device)
    covered = (position >= indptr[..., :1]) & (position < indptr[..., -1:])
    covered = covered.reshape(*covered.shape, *(1,) * (src.dim() - indptr.dim()))
    return out.copy_(torch.where(covered, _gather_segments(src, indptr, out.shape[dim], dim), out))


def _gather_segments(src: torch.Tensor, indptr: torch.Tensor, length: int, dim: int) -> torch.Tensor:
    if src.shape[dim] == 0:
        indptr = indptr[..., :1]
    return ops.gather_segments(src, indptr, length)


def cuda_version() -> int:
    """The CUDA of torch, such as 13000; -1 without. (The original tells which CUDA it was compiled with.)"""
    if torch.version.cuda is None:
        return -1
    major, minor = torch.version.cuda.split(".")[:2]
    return int(major) * 1000 + int(minor) * 10


# ------------------------------------------------------------------------------------------------ schemas

_VALUE, _PAIR = "Tensor", "(Tensor, Tensor)"
_SCATTER = "(Tensor src, Tensor index, int dim, Tensor? optional_out, int? dim_size) -> "
_COO = "(Tensor src, Tensor index, Tensor? optional_out, int? dim_size) -> "
_CSR = "(Tensor src, Tensor indptr, Tensor? optional_out) -> "

OPERATORS: dict[str, tuple[str, Callable[..., Any]]] = {
    "cuda_version": ("() -> int", cuda_version),
    "scatter_sum": (_SCATTER + _VALUE, partial(_scatter_value, reduction="sum")),
    "scatter_mul": (_SCATTER + _VALUE, partial(_scatter_value, reduction="mul")),
    "scatter_mean": (_SCATTER + _VALUE, partial(_scatter_value, reduction="mean")),
    "scatter_min": (_SCATTER + _PAIR, partial(_scatter_extreme, largest=False)),
    "scatter_max": (_SCATTER + _PAIR, partial(_scatter_extreme, largest=True)),
    "segment_sum_coo": (_COO + _VALUE, partial(_segment_coo_value, reduction="sum")),
    "segment_mean_coo": (_COO + _VALUE, partial(_segment_coo_value, reduction="mean")),
    "segment_min_coo": (_COO + _PAIR, partial(_segment_coo_extreme, largest=False)),
    "segment_max_coo": (_COO + _PAIR, partial(_segment_coo_extreme, largest=True)),
    "gather_coo": ("(Tensor src, Tensor index, Tensor? optional_out) -> " + _VALUE, _gather_coo),
    "segment_sum_csr": (_CSR + _VALUE, partial(_segment_csr_value, reduction="sum")),
    "segment_mean_csr": (_CSR + _VALUE, partial(_segment_csr_value, reduction="mean")),
    "segment_min_csr": (_CSR + _PAIR, partial(_segment_csr_extreme, largest=False)),
    "segment_max_csr": (_CSR + _PAIR, partial(_segment_csr_extreme, largest=True)),
    "gather_csr": (_CSR + _VALUE, _gather_csr),
}


def _called(name: str) -> Callable[..., Any]:
    """Return what the functions call: the implementation, and while `torch.jit.trace` records the operator.

    Its sizes depend on data: taken apart, a trace would keep those of the example.
    """
    implementation = OPERATORS[name][1]

    def call(*args: Any) -> Any:
        if torch.jit.is_tracing():
            return getattr(torch.ops.portable_kernels, name)(*args)
        return implementation(*args)

    return call


scatter_sum, scatter_mul, scatter_mean = (_called(f"scatter_{r}") for r in ("sum", "mul", "mean"))
scatter_min, scatter_max = (_called(f"scatter_{r}") for r in ("min", "max"))
segment_sum_coo, segment_mean_coo = (_called(f"segment_{r}_coo") for r in ("sum", "mean"))
segment_min_coo, segment_max_coo = (_called(f"segment_{r}_coo") for r in ("min", "max"))
segment_sum_csr, segment_mean_csr = (_called(f"segment_{r}_csr") for r in ("sum", "mean"))
segment_min_csr, segment_max_csr = (_called(f"segment_{r}_csr") for r in ("min", "max"))
gather_coo, gather_csr = _called("gather_coo"), _called("gather_csr")

_libraries: dict[str, torch.library.Library] = {}


def register(namespace: str) -> None:
    """Register every operator as `torch.ops.<namespace>.<name>`, once.

    RuntimeError where another library has registered that name: the compiled torch_scatter and this one
    cannot serve one process.
    """
    if namespace in _libraries:
        return
    library = torch.library.Library(namespace, "FRAGMENT")
    for name, (schema, implementation) in OPERATORS.items():
        # `out` is changed and returned though the schema, the original's, doesn't say so: no reasoning about
        # aliases.
        library.define(name + schema, alias_analysis="CONSERVATIVE")
        library.impl(name, implementation, "CompositeImplicitAutograd")
    _libraries[namespace] = library


register(ops.NAMESPACE)
