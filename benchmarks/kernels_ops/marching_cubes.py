"""torchmcubes: TripoSR's 256³ volume, and about 10 times as many points."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels_ops import Comparison, original_module
from portable_kernels import marching_cubes as ours

RESOLUTION = 256


def bumpy_sphere(n: int) -> torch.Tensor:
    """A smooth closed surface with bumps in an (n, n, n) volume: positive inside."""
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, n, device="cuda")] * 3, indexing="ij")
    return 0.7 - (x * x + y * y + z * z).sqrt() + 0.1 * torch.sin(9 * x) * torch.sin(8 * y) * torch.sin(7 * z)


def comparisons(times: int) -> Iterator[Comparison]:
    """Yield both functions at `times` the workload's number of grid points."""
    original = original_module("torchmcubes")
    n = round(RESOLUTION * times ** (1 / 3))
    generator = torch.Generator(device="cuda").manual_seed(0)
    noise = torch.randn((n, n, n), generator=generator, device="cuda")
    for what, volume in (("bumpy sphere", bumpy_sphere(n)), ("noise", noise)):
        if what == "noise" and times > 1:
            continue
        vertices, faces = ours.marching_cubes(volume, 0.0)
        yield Comparison(
            "marching_cubes",
            f"{n}³, {what}, {len(faces)} triangles",
            lambda v=volume: ours.marching_cubes(v, 0.0),
            (lambda v=volume: original.marching_cubes(v, 0.0)) if original else None,
        )
        colours = torch.rand((3, n, n, n), generator=generator, device="cuda")
        yield Comparison(
            "grid_interp",
            f"(3, {n}, {n}, {n}) at {len(vertices)} points",
            lambda c=colours, p=vertices: ours.grid_interp(c, p),
            (lambda c=colours, p=vertices: original.grid_interp(c, p)) if original else None,
        )
