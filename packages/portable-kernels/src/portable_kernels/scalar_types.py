"""torch dtypes and the names that the kernels' headers give them."""

from __future__ import annotations

import torch

CUDA_NAME = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "half_t",
    torch.bfloat16: "bfloat_t",
    torch.int64: "long long",
    torch.int32: "int",
    torch.int16: "short",
    torch.int8: "signed char",
    torch.uint8: "unsigned char",
}

WORD_OF_SIZE = {
    1: "unsigned char",
    2: "unsigned short",
    4: "unsigned int",
    8: "unsigned long long",
    16: "word16_t",
}


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return what a dtype is added up in: float32 for 16-bit floats, int32 for short integers."""
    if dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    if dtype in (torch.int8, torch.uint8, torch.int16):
        return torch.int32
    return dtype
