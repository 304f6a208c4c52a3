"""torchmcubes' names, as TripoSR uses them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import portable_kernels

DROPIN = Path(portable_kernels.__file__).parent / "dropins" / "torchmcubes"


def _run(code: str, **environment: str) -> list[str]:
    path = os.pathsep.join([str(DROPIN), str(Path(portable_kernels.__file__).parents[1])])
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_names_and_arguments() -> None:
    lines = _run(
        "import torch, torchmcubes\n"
        "from torchmcubes import grid_interp, marching_cubes\n"
        "vol = torch.zeros(4, 4, 4); vol[1:3, 1:3, 1:3] = 1\n"
        "v, f = marching_cubes(vol=vol, thresh=0.5)\n"
        "print(v.shape, v.dtype, f.shape, f.dtype)\n"
        "print(grid_interp(vol=vol[None], points=v).flatten().unique().tolist())\n"
    )
    assert lines == ["torch.Size([24, 3]) torch.float32 torch.Size([44, 3]) torch.int32", "[0.5]"]


@pytest.mark.parametrize(("value", "triangles"), [("0", 0), ("1", 1)])
def test_the_environment_restores_the_triangle_of_zeros(value: str, triangles: int) -> None:
    code = "import torch, torchmcubes; print(len(torchmcubes.marching_cubes(torch.zeros(3, 3, 3), 1.0)[1]))"
    assert _run(code, PORTABLE_KERNELS_TORCHMCUBES_COMPAT=value) == [str(triangles)]


def test_as_triposr_does() -> None:
    """A density on an (x, y, z) grid, negated twice, coordinates turned round: a mesh with outward normals in [0, 1]."""
    lines = _run(
        "import torch\n"
        "from torchmcubes import marching_cubes\n"
        "n = 40\n"
        "x, y, z = torch.meshgrid(*[torch.linspace(0, 1, n)] * 3, indexing='ij')\n"
        "density = 30 - 100 * ((x - 0.4) ** 2 + (y - 0.5) ** 2 + (z - 0.6) ** 2).sqrt()\n"
        "level = -(-(density - 5.0))\n"
        "v, f = marching_cubes(level.view(n, n, n).detach(), 0.0)\n"
        "v = v[..., [2, 1, 0]] / (n - 1.0)\n"
        "a, b, c = v[f.long()].double().unbind(1)\n"
        "print(*v.mean(0).tolist(), float((torch.linalg.cross(a, b) * c).sum() / 6))\n"
    )
    *centre, volume = map(float, lines[0].split())
    assert centre == pytest.approx([0.4, 0.5, 0.6], abs=2e-3)
    assert volume == pytest.approx(4 / 3 * 3.14159 * 0.25**3, rel=0.02)
