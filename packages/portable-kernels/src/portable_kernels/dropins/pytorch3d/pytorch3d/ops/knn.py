"""pytorch3d.ops.knn: see `portable_kernels.knn`."""

from portable_kernels.knn import KNN as _KNN
from portable_kernels.knn import knn_gather, knn_points

__all__ = ["_KNN", "knn_gather", "knn_points"]
