"""`scatter_std`, under the path that it has in torch_scatter."""

from portable_kernels.scatter.composite import scatter_std

__all__ = ["scatter_std"]
