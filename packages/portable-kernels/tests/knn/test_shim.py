"""The names of PyTorch3D that the shim serves, and what it says of the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import portable_kernels

DROPIN = Path(portable_kernels.__file__).parent / "dropins" / "pytorch3d"
SAYS = "shim of portable-kernels"


def _run(code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(DROPIN), str(Path(portable_kernels.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )


def test_the_workloads_import_and_signatures() -> None:
    """DeepPrep's SUGAR writes `from pytorch3d.ops.knn import knn_points`."""
    run = _run(
        "import inspect, torch\n"
        "from pytorch3d.ops.knn import _KNN, knn_gather, knn_points\n"
        "from pytorch3d.ops.ball_query import ball_query\n"
        "import pytorch3d.ops as ops, pytorch3d\n"
        "assert ops.knn_points is knn_points and ops.knn_gather is knn_gather and ops.ball_query is ball_query\n"
        "assert pytorch3d.__version__ == '0.7.9' and _KNN._fields == ('dists', 'idx', 'knn')\n"
        "for f in (knn_points, knn_gather, ball_query):\n"
        "    print({n: p.default for n, p in inspect.signature(f).parameters.items() if p.default is not p.empty})\n"
        "print(knn_points(torch.zeros(1, 2, 3), torch.ones(1, 3, 3), K=2).dists.tolist())\n"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "{'lengths1': None, 'lengths2': None, 'norm': 2, 'K': 1, 'version': -1, 'return_nn': False, 'return_sorted': True}",
        "{'lengths': None}",
        "{'lengths1': None, 'lengths2': None, 'K': 500, 'radius': 0.2, 'return_nn': True, 'skip_points_outside_cube': False}",
        "[[[3.0, 3.0], [3.0, 3.0]]]",
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "from pytorch3d.structures import Meshes",
        "import pytorch3d.renderer.mesh",
        "from pytorch3d import _C",
        "from pytorch3d import loss",
        "from pytorch3d.ops import sample_farthest_points",
        "from pytorch3d.ops import cubify, knn_points",
        "import pytorch3d.ops.utils",
    ],
)
def test_everything_else_is_an_import_error_that_says_what_this_is(statement: str) -> None:
    run = _run(f"try:\n    {statement}\nexcept ImportError as error:\n    print(error)\n")
    assert run.returncode == 0, run.stderr
    assert SAYS in run.stdout
    assert "uninstall --shim pytorch3d" in run.stdout


def test_attributes_say_so_too_and_other_imports_are_left_alone() -> None:
    run = _run(
        "import pytorch3d, pytorch3d.ops\n"
        "for owner in (pytorch3d, pytorch3d.ops):\n"
        "    try: owner.renderer\n"
        "    except AttributeError as error: print(error)\n"
        "assert not hasattr(pytorch3d, 'io')\n"
        "try: import surely_not_there\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    assert run.returncode == 0, run.stderr
    first, second, third = run.stdout.splitlines()
    assert SAYS in first
    assert SAYS in second
    assert third == "No module named 'surely_not_there'"


def test_code_that_only_asks_is_told_that_nothing_is_there() -> None:
    run = _run(
        "import importlib, importlib.util as util\n"
        "import pytorch3d.ops\n"
        "print([util.find_spec(f'pytorch3d.{name}') for name in ('structures', 'io', 'ops.utils')])\n"
        "assert util.find_spec('pytorch3d.ops.knn') is not None\n"
        "try: util.find_spec('pytorch3d.renderer.mesh')  # imports the parent, as for any other package\n"
        "except ModuleNotFoundError as error: print(error)\n"
        "try: importlib.import_module('pytorch3d.structures')\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    assert run.returncode == 0, run.stderr
    found, parent, imported = run.stdout.splitlines()
    assert found == "[None, None, None]"
    assert SAYS in parent
    assert SAYS in imported
