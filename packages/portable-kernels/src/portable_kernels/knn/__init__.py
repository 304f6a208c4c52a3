"""Nearest neighbours and ball queries of point clouds. The surface of pytorch3d.ops."""

from portable_kernels.knn.functional import KNN, ball_query, knn_gather, knn_points

__all__ = ["KNN", "ball_query", "knn_gather", "knn_points"]
