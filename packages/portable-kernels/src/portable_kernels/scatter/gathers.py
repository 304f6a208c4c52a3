"""What moves rows by an index without reducing them, by kernels: the gathers, and gradients of reductions."""

from __future__ import annotations

from math import prod

import torch

from portable_kernels import index_errors
from portable_kernels.compiler import launch_grid
from portable_kernels.scatter.geometry import BLOCK, block_count, lanes, vector_width
from portable_kernels.scatter.layout import Place, Shape, resized
from portable_kernels.scatter.sources import backward_module, index_module


def gather(src: torch.Tensor, place: Place, shape: Shape, size: int) -> torch.Tensor:
    """Return out[b, e, k] = src[b, index[b, e, k], k] of `shape`; a bad index gives 0 and is reported.

    src contiguous, (B, size, K); `place` has the sizes of the result.
    """
    device = src.device
    out = torch.empty(shape, dtype=src.dtype, device=device)
    if out.numel() == 0:
        return out
    item, K = src.dtype.itemsize, place.K
    # A row that one index serves is moved in the widest words that fit.
    together = K > 1 and place.stride_k == 0
    vector = vector_width(item, K, src.data_ptr() | out.data_ptr()) if together else 1
    total = out.numel() // vector
    index_errors.raise_reported(device.index)
    geometry = [total, place.E, K // vector, size, *place.strides, index_errors.flag_address(device.index)]
    index_module(item * vector).launch(
        "gather", block_count(total), BLOCK, [src, place.targets, out, *geometry], device
    )
    index_errors.after_launch(device.index)
    return out


def gather_segments(
    src: torch.Tensor,
    sizes: tuple[int, int, int],
    pointers: torch.Tensor,
    pointer_stride: int,
    shape: Shape,
    length: int,
) -> torch.Tensor:
    """Return values of `shape`: contiguous src, `sizes` (B, N, K), repeated over its segments.

    0 outside them all.
    """
    B, N, K = sizes
    device = src.device
    if src.numel() == 0:
        return torch.zeros(shape, dtype=src.dtype, device=device)
    out = torch.empty(shape, dtype=src.dtype, device=device)
    if out.numel() == 0:
        return out
    item = src.dtype.itemsize
    vector = vector_width(item, K, src.data_ptr() | out.data_ptr())
    log_x, log_l, chunks = lanes(B * N, B * length, K // vector, least=4)
    blocks = launch_grid(-(-B * N // (BLOCK >> (log_x + log_l))) * chunks, 1)
    index_errors.raise_reported(device.index)
    geometry = [B * N, N, length, K // vector, pointer_stride, chunks, log_x, log_l]
    args = [src, pointers, out, *geometry, index_errors.flag_address(device.index)]
    index_module(item * vector).launch("gather_segments", blocks, BLOCK, args, device)
    index_errors.after_launch(device.index)
    return out


def multiply_backward(product: torch.Tensor, src: torch.Tensor, place: Place, size: int) -> torch.Tensor:
    """Return product[b, index[b, e, k], k] / src[b, e, k], 0 where that is NaN; both contiguous."""
    out = torch.empty_like(src)
    if out.numel() == 0:
        return out
    item, K = src.dtype.itemsize, place.K
    addresses = src.data_ptr() | product.data_ptr() | out.data_ptr()
    vector = vector_width(item, K, addresses) if place.stride_k == 0 else 1
    total = out.numel() // vector
    args = [product, src, place.targets, out, total, place.E, K // vector, size, *place.strides]
    backward_module(src.dtype, vector).launch(
        "scatter_multiply_backward", block_count(total), BLOCK, args, src.device
    )
    return out


def spread(values: torch.Tensor, arg: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    """Return zeros with out[…, arg[…, n, …], …] = values[…, n, …] along `dim`; other positions are none."""
    shape = resized(values.shape, dim, length)
    out = torch.zeros(shape, dtype=values.dtype, device=values.device)
    if values.numel() and out.numel():
        values, arg = values.contiguous(), arg.contiguous()
        args = [values, arg, out, values.numel(), length, prod(shape[dim + 1 :]), values.shape[dim]]
        index_module(values.dtype.itemsize).launch(
            "spread", block_count(values.numel()), BLOCK, args, values.device
        )
    return out
