"""Expanding an index to the shape of what it indexes."""

from portable_kernels.scatter.composite import broadcast

__all__ = ["broadcast"]
