"""Standard deviation, log-sum-exp and softmax by index, over the reductions. Scriptable, differentiable."""

# TorchScript reads the annotations as objects: no `from __future__ import annotations` here.
import torch

from portable_kernels.scatter import torch_scatter_ops as eager
from portable_kernels.scatter.functional import scatter_max, scatter_sum

__all__ = ["scatter_log_softmax", "scatter_logsumexp", "scatter_softmax", "scatter_std"]


def broadcast(src: torch.Tensor, other: torch.Tensor, dim: int) -> torch.Tensor:
    """Expand an index `src` to `other`'s shape: 1-D along `dim`, missing dimensions appended at the end."""
    if dim < 0:
        dim = other.dim() + dim
    if src.dim() == 1:
        for _ in range(dim):
            src = src.unsqueeze(0)
    for _ in range(src.dim(), other.dim()):
        src = src.unsqueeze(-1)
    return src.expand(other.size())


def _of_target(values: torch.Tensor, index: torch.Tensor, src: torch.Tensor, dim: int) -> torch.Tensor:
    """Return in `src`'s shape what `values` holds for each element's target."""
    if not torch.jit.is_scripting():
        return eager.of_target(values, index, src, dim)
    return values.gather(dim, broadcast(index, src, dim))


def _result_size(index: torch.Tensor, dim: int, out: torch.Tensor | None, dim_size: int | None) -> int:
    if out is not None:
        return out.size(dim)
    if dim_size is not None:
        return dim_size
    return int(index.max()) + 1


def _size_like(values: torch.Tensor, dim: int, dim_size: int | None) -> int | None:
    """Return the size of a result that is there.

    While torch.jit.trace records, what was asked for: the trace would keep the example's size.
    """
    return dim_size if torch.jit.is_tracing() else values.size(dim)


def scatter_std(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
    unbiased: bool = True,
) -> torch.Tensor:
    """Standard deviation by index: √(Σ(x − mean)² / (max(n − 1, 1) + 1e-6)), or n if not `unbiased`.

    `out` receives the sums of squares, added to what stands in it, as in the original.
    """
    if out is not None:
        dim_size = out.size(dim)
    if dim < 0:
        dim = src.dim() + dim
    index = broadcast(index, src, dim)
    # One count serves all that share an index.
    shared = index
    for axis in range(index.dim()):
        if axis != dim and index.size(axis) > 1 and index.stride(axis) == 0:
            shared = shared.narrow(axis, 0, 1)
    ones = torch.ones(shared.size(), dtype=src.dtype, device=src.device)
    count = scatter_sum(ones, shared, dim, None, dim_size).clamp(min=1)
    size = _size_like(count, dim, dim_size)
    mean = scatter_sum(src, index, dim, None, size) / count
    deviation = src - _of_target(mean, index, src, dim)
    squares = scatter_sum(deviation * deviation, index, dim, out, size)
    if unbiased:
        count = (count - 1).clamp(min=1)
    return (squares / (count + 1e-6)).sqrt()


def scatter_logsumexp(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
    eps: float = 1e-12,
) -> torch.Tensor:
    """log Σ exp by index, computed around each target's maximum; 0 where nothing went. Floating point only.

    With `out`: log(exp(out) + Σ exp), in place, and `out` stays where nothing went. ValueError for integers.
    """
    if not src.is_floating_point():
        raise ValueError(
            "`scatter_logsumexp` can only be computed over tensors with floating point data types."
        )
    size = list(src.size())
    size[dim] = _result_size(index, dim, out, dim_size)
    # The result does not depend on where it is computed around: no gradient goes through the maximum.
    peak = torch.full(size, float("-inf"), dtype=src.dtype, device=src.device)
    scatter_max(src.detach(), index, dim, peak, None)
    scores = src - _of_target(peak, index, src, dim)
    scores = scores.masked_fill(scores.isnan(), float("-inf")).exp()
    if out is None:
        total = scatter_sum(scores, index, dim, None, size[dim])
        return (total.add_(eps).log_() + peak).nan_to_num(neginf=0.0)
    before = out.clone()
    scatter_sum(scores, index, dim, out.sub_(peak).exp_(), None)
    out.add_(eps).log_().add_(peak)
    return out.copy_(torch.where(out.isfinite(), out, before))


def scatter_softmax(
    src: torch.Tensor, index: torch.Tensor, dim: int = -1, dim_size: int | None = None
) -> torch.Tensor:
    """Softmax over the elements that share a target, in `src`'s shape. ValueError for integers."""
    if not src.is_floating_point():
        raise ValueError(
            "`scatter_softmax` can only be computed over tensors with floating point data types."
        )
    peak = scatter_max(src.detach(), index, dim, None, dim_size)[0]
    scores = (src - _of_target(peak, index, src, dim)).exp()
    total = scatter_sum(scores, index, dim, None, _size_like(peak, dim, dim_size))
    return scores / _of_target(total, index, src, dim)


def scatter_log_softmax(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    eps: float = 1e-12,
    dim_size: int | None = None,
) -> torch.Tensor:
    """Logarithm of the softmax over the elements that share a target. ValueError for integers."""
    if not src.is_floating_point():
        raise ValueError(
            "`scatter_log_softmax` can only be computed over tensors with floating point data types."
        )
    peak = scatter_max(src.detach(), index, dim, None, dim_size)[0]
    scores = src - _of_target(peak, index, src, dim)
    total = scatter_sum(scores.exp(), index, dim, None, _size_like(peak, dim, dim_size))
    return scores - _of_target((total + eps).log(), index, src, dim)
