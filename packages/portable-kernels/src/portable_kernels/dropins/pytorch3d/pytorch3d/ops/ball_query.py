"""pytorch3d.ops.ball_query: see `portable_kernels.knn`."""

from portable_kernels.knn import KNN as _KNN
from portable_kernels.knn import ball_query

__all__ = ["_KNN", "ball_query"]
