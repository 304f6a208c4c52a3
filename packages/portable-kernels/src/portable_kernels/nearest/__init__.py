"""Distances of points to their nearest neighbours, after `simple_knn`."""

from portable_kernels.nearest.functional import distCUDA2

__all__ = ["distCUDA2"]
