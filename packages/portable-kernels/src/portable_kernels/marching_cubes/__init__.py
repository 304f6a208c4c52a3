"""Marching cubes: triangles from volumes, and values of volumes at points. The surface of torchmcubes."""

from portable_kernels.marching_cubes.functional import grid_interp, marching_cubes

__all__ = ["grid_interp", "marching_cubes"]
