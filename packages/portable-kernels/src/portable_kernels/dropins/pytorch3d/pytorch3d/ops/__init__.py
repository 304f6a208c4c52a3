"""pytorch3d.ops: nearest neighbours, by portable-kernels."""

from __future__ import annotations

from pytorch3d import _not_here

from .ball_query import ball_query
from .knn import knn_gather, knn_points

__all__ = ["ball_query", "knn_gather", "knn_points"]


def __getattr__(name: str) -> object:
    raise AttributeError(_not_here(f"pytorch3d.ops.{name}"), name=name)
