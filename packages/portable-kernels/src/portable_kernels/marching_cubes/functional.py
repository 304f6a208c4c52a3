"""Surfaces from volumes, and values of volumes at points."""

from __future__ import annotations

import torch

from portable_kernels.marching_cubes import launches, ops
from portable_kernels.scatter.direct import is_plain


def _check_float(name: str, tensor: torch.Tensor, dimensions: int) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(tensor).__name__}")
    if tensor.dim() != dimensions:
        raise RuntimeError(f"{name} must be {dimensions}-dimension, but has shape {tuple(tensor.shape)}")
    if tensor.dtype != torch.float32:
        raise RuntimeError(f"expected scalar type Float but found {tensor.dtype} for {name}")
    if tensor.device.type not in ("cpu", "cuda"):
        raise RuntimeError(f"{name} must be on the CPU or a CUDA device, not on {tensor.device}")


def marching_cubes(
    volume: torch.Tensor, threshold: float, *, compat: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the surface on which a volume equals `threshold`, by marching cubes.

    Args:
        volume: (D, H, W) float32, on the CPU or a CUDA device, any strides.
        threshold: a corner is below where its value < threshold, in float32.
        compat: for a volume without a surface, return one triangle of zeros, as torchmcubes does on CUDA.

    Returns:
        vertices: (V, 3) float32 (x, y, z), in steps of the grid: x runs along W, y along H, z along D. One
            vertex for each edge of the grid with one end below, linearly between its ends' values.
        faces: (F, 3) int32, wound so that normals point to greater values. The surface is closed but where it
            meets the volume's border; an ambiguous face of the grid is cut as in torchmcubes. The same on
            every device, bit for bit, and every time.

    Both are on the volume's device and empty, (0, 3), where nothing crosses the threshold. A NaN makes a
    hole: cells with one have no triangles, edges with one no vertex. Half-way stands for the crossing between
    two infinities. Not differentiable. On CUDA it waits once for the device, to learn V and F.

    RuntimeError: not three dimensions, not float32, or more vertices than int32 can number.
    TypeError: not a tensor.

    Source: W. Lorensen, H. Cline, «Marching Cubes», SIGGRAPH 1987; faces without holes, see `table`.
    """
    _check_float("vol", volume, 3)
    volume = volume.detach().contiguous()
    # Without the dispatcher where nobody needs it: it takes longer than a launch.
    polygonise = launches.marching_cubes if is_plain(volume) else ops.marching_cubes
    vertices, faces = polygonise(volume, float(threshold))
    if compat and faces.shape[0] == 0:
        return vertices.new_zeros((3, 3)), faces.new_tensor([[0, 1, 2]])
    return vertices, faces


def grid_interp(volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return a volume's values at points, by trilinear interpolation.

    Args:
        volume: (C, D, H, W) float32.
        points: (P, 3) float32 (x, y, z), in steps of the grid as from `marching_cubes`, on the volume's
            device.

    Returns (P, C) float32. Outside the volume, as torchmcubes: up to one step before the first point of an
    axis the values go on linearly, further out they are the border's. NaN where a coordinate is not finite.
    Not differentiable.

    RuntimeError: wrong dimensions, dtypes, devices, or a volume without points. TypeError: not a tensor.
    """
    _check_float("vol", volume, 4)
    _check_float("points", points, 2)
    if points.shape[1] != 3:
        raise RuntimeError(f"points must have shape (P, 3), not {tuple(points.shape)}")
    if points.device != volume.device:
        raise RuntimeError(f"vol is on {volume.device}, but points are on {points.device}")
    if points.shape[0] and volume.shape[0] and not volume[0].numel():
        raise RuntimeError(f"a volume of shape {tuple(volume.shape)} has no values to interpolate")
    volume, points = volume.detach().contiguous(), points.detach().contiguous()
    plain = is_plain(volume) and is_plain(points)
    return launches.grid_interp(volume, points) if plain else ops.grid_interp(volume, points)
