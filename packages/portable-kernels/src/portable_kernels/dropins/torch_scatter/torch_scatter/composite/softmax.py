"""`scatter_softmax` and `scatter_log_softmax`, under the path that they have in torch_scatter."""

from portable_kernels.scatter.composite import scatter_log_softmax, scatter_softmax

__all__ = ["scatter_log_softmax", "scatter_softmax"]
