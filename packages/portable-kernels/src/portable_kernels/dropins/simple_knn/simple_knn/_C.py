"""`distCUDA2`, as the compiled module has it."""

from portable_kernels.nearest import distCUDA2

__all__ = ["distCUDA2"]
