"""What is wrong with arguments, said before any kernel starts, in the original's words where it has some."""

from __future__ import annotations

import torch

from portable_kernels.scalar_types import CUDA_NAME
from portable_kernels.scatter.layout import resized


def check_tensors(index_name: str, src: torch.Tensor, index: torch.Tensor, out: torch.Tensor | None) -> None:
    """Raise RuntimeError for tensors on different devices, indices that are no int64, dtypes without
    kernels.
    """
    device = src.device
    if index.device != device or (out is not None and out.device != device):
        name, other = ("out", out) if index.device == device else (index_name, index)
        assert other is not None
        raise RuntimeError(f"{name} must be on the device of src: {device}, but is on {other.device}")
    if index.dtype != torch.int64:
        raise RuntimeError(f"{index_name}: expected scalar type Long but found {_scalar_type(index.dtype)}")
    if src.dtype not in CUDA_NAME:
        raise NotImplementedError(f"this operation is not implemented for '{_scalar_type(src.dtype)}'")
    if out is not None and out.dtype != src.dtype:
        raise RuntimeError(f"Expected out.dtype ({out.dtype}) to be equal to src.dtype ({src.dtype})")


def _scalar_type(dtype: torch.dtype) -> str:
    """Return a dtype by the name that torch's own messages use: Int, Float, ComplexFloat."""
    names = {torch.int32: "Int", torch.int16: "Short", torch.int8: "Char", torch.uint8: "Byte"}
    names |= {torch.float32: "Float", torch.float64: "Double", torch.float16: "Half"}
    names |= {torch.complex64: "ComplexFloat", torch.complex128: "ComplexDouble", torch.bool: "Bool"}
    return names.get(dtype, str(dtype).removeprefix("torch."))


def check_out(out: torch.Tensor, src: torch.Tensor, dim: int) -> None:
    """Raise RuntimeError unless `out` has `src`'s shape but for `dim`."""
    if out.dim() != src.dim() or resized(out.shape, dim, 0) != resized(src.shape, dim, 0):
        raise RuntimeError(
            f"Input mismatch: out has shape {tuple(out.shape)}, but only dimension {dim} may differ from "
            f"src's {tuple(src.shape)}"
        )
