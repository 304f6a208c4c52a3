"""`scatter_logsumexp`, under the path that it has in torch_scatter."""

from portable_kernels.scatter.composite import scatter_logsumexp

__all__ = ["scatter_logsumexp"]
