"""The functions of torch_scatter 2.1.2: reductions and gathers by index.

Every function takes `src` of any shape on the CPU or a CUDA device, of float32, float64, float16, bfloat16
or an integer dtype; the result has its dtype. 16-bit floats are added up in float32 and rounded once.

- `index` (int64) names each element's target along `dim`. A 1-D index stands along `dim`; dimensions missing
  at its end are appended; then it is expanded to `src`'s shape.
- `dim_size` is the result's size along `dim`; left out, the largest index and one (which waits for a GPU).
- `out` is changed in place and returned; reductions start from what stands in it.
- Of equal extremes the first position wins. NaN never wins. A target that nothing reached is 0 (1 for a
  product), its position `src.size(dim)`.

RuntimeError: shapes that don't broadcast, tensors on several devices, an index that is not int64, dtypes
without kernels. BadIndexError (an IndexError and a RuntimeError): an index outside [0, size); on a GPU it is
raised by the next operation or by `portable_kernels.index_errors.check_indices`, and no memory was touched
through it.

All are differentiable in `src`, can be scripted by TorchScript, and are traced by torch.compile.
Source: the documentation of https://github.com/rusty1s/pytorch_scatter, 2.1.2.
"""

# TorchScript reads the annotations as objects: no `from __future__ import annotations` here.
import torch

from portable_kernels.scatter import torch_scatter_ops as eager

__all__ = [
    "gather_coo",
    "gather_csr",
    "scatter",
    "scatter_add",
    "scatter_max",
    "scatter_mean",
    "scatter_min",
    "scatter_mul",
    "scatter_sum",
    "segment_add_coo",
    "segment_add_csr",
    "segment_coo",
    "segment_csr",
    "segment_max_coo",
    "segment_max_csr",
    "segment_mean_coo",
    "segment_mean_csr",
    "segment_min_coo",
    "segment_min_csr",
    "segment_sum_coo",
    "segment_sum_csr",
]


def scatter_sum(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
) -> torch.Tensor:
    """Sum by index: out[..., i, ...] = out[..., i, ...] + Σ src[..., j, ...] over index[j] = i."""
    if not torch.jit.is_scripting():
        return eager.scatter_sum(src, index, dim, out, dim_size)
    return torch.ops.portable_kernels.scatter_sum(src, index, dim, out, dim_size)


def scatter_add(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
) -> torch.Tensor:
    """The same as `scatter_sum`."""
    if not torch.jit.is_scripting():
        return eager.scatter_sum(src, index, dim, out, dim_size)
    return torch.ops.portable_kernels.scatter_sum(src, index, dim, out, dim_size)


def scatter_mul(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
) -> torch.Tensor:
    """Product by index; 1 where no element went. A factor of 0 gets no gradient, as in the original."""
    if not torch.jit.is_scripting():
        return eager.scatter_mul(src, index, dim, out, dim_size)
    return torch.ops.portable_kernels.scatter_mul(src, index, dim, out, dim_size)


def scatter_mean(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
) -> torch.Tensor:
    """Mean by index; integers are rounded down. With `out`: (out + sum) / count."""
    if not torch.jit.is_scripting():
        return eager.scatter_mean(src, index, dim, out, dim_size)
    return torch.ops.portable_kernels.scatter_mean(src, index, dim, out, dim_size)


def scatter_min(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimum by index → (values, int64 positions along `dim` of the first winner)."""
    if not torch.jit.is_scripting():
        return eager.scatter_min(src, index, dim, out, dim_size)
    return torch.ops.portable_kernels.scatter_min(src, index, dim, out, dim_size)


def scatter_max(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maximum by index → (values, int64 positions along `dim` of the first winner)."""
    if not torch.jit.is_scripting():
        return eager.scatter_max(src, index, dim, out, dim_size)
    return torch.ops.portable_kernels.scatter_max(src, index, dim, out, dim_size)


def scatter(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> torch.Tensor:
    """Reduce by index: `reduce` is sum, add, mul, mean, min or max. ValueError for another."""
    if reduce == "sum" or reduce == "add":
        return scatter_sum(src, index, dim, out, dim_size)
    if reduce == "mul":
        return scatter_mul(src, index, dim, out, dim_size)
    if reduce == "mean":
        return scatter_mean(src, index, dim, out, dim_size)
    if reduce == "min":
        return scatter_min(src, index, dim, out, dim_size)[0]
    if reduce == "max":
        return scatter_max(src, index, dim, out, dim_size)[0]
    raise ValueError("reduce must be sum, add, mul, mean, min or max, but is " + reduce)


def segment_sum_coo(
    src: torch.Tensor,
    index: torch.Tensor,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
) -> torch.Tensor:
    """Sum over a sorted index, along its last dimension; `index.dim() <= src.dim()`."""
    if not torch.jit.is_scripting():
        return eager.segment_sum_coo(src, index, out, dim_size)
    return torch.ops.portable_kernels.segment_sum_coo(src, index, out, dim_size)


def segment_add_coo(
    src: torch.Tensor,
    index: torch.Tensor,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
) -> torch.Tensor:
    """The same as `segment_sum_coo`."""
    if not torch.jit.is_scripting():
        return eager.segment_sum_coo(src, index, out, dim_size)
    return torch.ops.portable_kernels.segment_sum_coo(src, index, out, dim_size)


def segment_mean_coo(
    src: torch.Tensor,
    index: torch.Tensor,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
) -> torch.Tensor:
    """Mean over a sorted index; integers are rounded towards zero. With `out`: (out + sum) / count."""
    if not torch.jit.is_scripting():
        return eager.segment_mean_coo(src, index, out, dim_size)
    return torch.ops.portable_kernels.segment_mean_coo(src, index, out, dim_size)


def segment_min_coo(
    src: torch.Tensor,
    index: torch.Tensor,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimum over a sorted index → (values, int64 positions of the first winner)."""
    if not torch.jit.is_scripting():
        return eager.segment_min_coo(src, index, out, dim_size)
    return torch.ops.portable_kernels.segment_min_coo(src, index, out, dim_size)


def segment_max_coo(
    src: torch.Tensor,
    index: torch.Tensor,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maximum over a sorted index → (values, int64 positions of the first winner)."""
    if not torch.jit.is_scripting():
        return eager.segment_max_coo(src, index, out, dim_size)
    return torch.ops.portable_kernels.segment_max_coo(src, index, out, dim_size)


def segment_coo(
    src: torch.Tensor,
    index: torch.Tensor,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> torch.Tensor:
    """Reduce over a sorted index: `reduce` is sum, add, mean, min or max. ValueError for another."""
    if reduce == "sum" or reduce == "add":
        return segment_sum_coo(src, index, out, dim_size)
    if reduce == "mean":
        return segment_mean_coo(src, index, out, dim_size)
    if reduce == "min":
        return segment_min_coo(src, index, out, dim_size)[0]
    if reduce == "max":
        return segment_max_coo(src, index, out, dim_size)[0]
    raise ValueError("reduce must be sum, add, mean, min or max, but is " + reduce)


def gather_coo(src: torch.Tensor, index: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return src[..., index[..., e], ...]: what `segment_sum_coo` sums up, spread out again.

    Sorted index (…, E).
    """
    if not torch.jit.is_scripting():
        return eager.gather_coo(src, index, out)
    return torch.ops.portable_kernels.gather_coo(src, index, out)


def segment_sum_csr(
    src: torch.Tensor,
    indptr: torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum over segments: out[n] = Σ src[indptr[n]:indptr[n + 1]], along `indptr`'s last dimension."""
    if not torch.jit.is_scripting():
        return eager.segment_sum_csr(src, indptr, out)
    return torch.ops.portable_kernels.segment_sum_csr(src, indptr, out)


def segment_add_csr(
    src: torch.Tensor,
    indptr: torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same as `segment_sum_csr`."""
    if not torch.jit.is_scripting():
        return eager.segment_sum_csr(src, indptr, out)
    return torch.ops.portable_kernels.segment_sum_csr(src, indptr, out)


def segment_mean_csr(
    src: torch.Tensor,
    indptr: torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over segments; integers are rounded towards zero."""
    if not torch.jit.is_scripting():
        return eager.segment_mean_csr(src, indptr, out)
    return torch.ops.portable_kernels.segment_mean_csr(src, indptr, out)


def segment_min_csr(
    src: torch.Tensor,
    indptr: torch.Tensor,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimum over segments → (values, int64 positions of the first winner)."""
    if not torch.jit.is_scripting():
        return eager.segment_min_csr(src, indptr, out)
    return torch.ops.portable_kernels.segment_min_csr(src, indptr, out)


def segment_max_csr(
    src: torch.Tensor,
    indptr: torch.Tensor,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maximum over segments → (values, int64 positions of the first winner)."""
    if not torch.jit.is_scripting():
        return eager.segment_max_csr(src, indptr, out)
    return torch.ops.portable_kernels.segment_max_csr(src, indptr, out)


def segment_csr(
    src: torch.Tensor,
    indptr: torch.Tensor,
    out: torch.Tensor | None = None,
    reduce: str = "sum",
) -> torch.Tensor:
    """Reduce over segments given by pointers (…, N + 1) → (…, N, …). Overwrites `out`.

    `reduce` is sum, add, mean, min or max; ValueError for another.
    """
    if reduce == "sum" or reduce == "add":
        return segment_sum_csr(src, indptr, out)
    if reduce == "mean":
        return segment_mean_csr(src, indptr, out)
    if reduce == "min":
        return segment_min_csr(src, indptr, out)[0]
    if reduce == "max":
        return segment_max_csr(src, indptr, out)[0]
    raise ValueError("reduce must be sum, add, mean, min or max, but is " + reduce)


def gather_csr(src: torch.Tensor, indptr: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Repeat src[..., n, ...] over positions indptr[n] … indptr[n + 1] - 1.

    `out` keeps what no segment holds.
    """
    if not torch.jit.is_scripting():
        return eager.gather_csr(src, indptr, out)
    return torch.ops.portable_kernels.gather_csr(src, indptr, out)
