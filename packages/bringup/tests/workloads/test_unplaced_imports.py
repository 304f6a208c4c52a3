"""Imports that nothing in a plan is known to bring are named, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bringup.catalog import load
from bringup.facts.project import read_project
from bringup.plan.adapt import _unplaced
from bringup.plan.model import LockedPackage, Plan
from bringup.plan.planner import Wishes
from bringup.plan.unplaced import is_brought
from bringup.plan.wanted import from_project


def unplaced(root: Path, files: dict[str, str]) -> dict[str, str]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return from_project(read_project(root), load()).unplaced


TRAIN = """\
import os, torch, torchvision, json, numpy as np
from clip import load
import kornia.augmentation as K
import tensorflow as tf
if __name__ == "__main__":
    import einops_exts
def late():
    import wandb_like
"""


def test_each_is_named_with_its_first_place(tmp_path: Path) -> None:
    files = {"requirements.txt": "torch\n", "train.py": TRAIN, "src/b.py": "import clip, late_one\n"}
    found = unplaced(tmp_path, files)
    assert {name: found.get(name) for name in ("clip", "kornia", "tensorflow", "einops_exts")} == {
        "clip": "train.py:2",
        "kornia": "train.py:3",
        "tensorflow": "train.py:4",
        "einops_exts": "train.py:6",
    }
    assert found["wandb_like"] == "train.py:8" and found["late_one"] == "src/b.py:1"
    assert not found.keys() & {"os", "torch", "torchvision", "json"}


QUIET = {
    "optional": (
        "try:\n    import apex_like\nexcept ImportError:\n    import other\n"
        "try:\n    import third\nexcept (KeyError, ModuleNotFoundError) as e:\n    pass\n"
        "try:\n    import fourth\nexcept:\n    pass\n"
        "def f():\n    try:\n        import sixth\n    except Exception:\n        pass\n"
        "import contextlib\nwith contextlib.suppress(ImportError):\n    import fifth\n"
    ),
    "conditional": (
        "from typing import TYPE_CHECKING\nimport sys\nif TYPE_CHECKING:\n    import types_of\n"
        "if sys.version_info < (3, 11):\n    import tomli\nelse:\n    import tomllib\n"
        "def track(on):\n    if on:\n        import wandb\n"
    ),
    "relative": "from . import models\nfrom .nets.clip import load\n",
    "generated": "import message_pb2, _gridencoder\n",
    "hosts": "import bpy, pkg_resources, google.colab, urllib2\n",
    "extensions": (
        "import simple_knn._C, diff_gaussian_rasterization, torch_scatter, apex\nimport tinycudann, triton\n"
    ),
    "declared": (
        "import yaml, cv2, PIL, sklearn, skimage, dateutil, attr, google.protobuf, bs4, dotenv, faiss, jwt\n"
        "import mpl_toolkits, serial, git, absl, haiku, OpenGL, zmq, Crypto, segment_anything, mcubes, sam_hq\n"
    ),
    "own": "import models.layers, layers, env, lib, my_ops, kernels_cpp, fast_loop, vendored, root_package\n",
}
DECLARED = """\
pyyaml
opencv-python
pillow
scikit-learn
scikit-image
python-dateutil
attrs
protobuf
beautifulsoup4
python-dotenv
faiss-gpu
pyjwt
matplotlib
pyserial
gitpython
absl-py
dm-haiku
pyopengl
pyzmq
pycryptodome
pymcubes
git+https://github.com/facebookresearch/segment-anything.git
-e ./third_party/sam-hq
"""


@pytest.mark.parametrize("kind", QUIET)
def test_nothing_else_is_named(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "root_package"
    files = {
        "requirements.txt": DECLARED if kind == "declared" else "torch\n",
        "train.py": QUIET[kind],
        "tools/models/layers.py": "",
        "env/__init__.py": "",
        "lib/README": "",
        "ext/setup.py": "from setuptools import setup\nimport skbuild\nsetup(ext_modules=[Extension('my_ops', [])])\n",
        "ext/CMakeLists.txt": "pybind11_add_module(kernels_cpp a.cpp)\n",
        "ext/fast_loop.pyx": "",
        "ext/vendored.cpython-38-x86_64-linux-gnu.so": "",
        "tests/test_a.py": "import only_in_tests\n",
        "docs/conf.py": "import sphinx_theme\n",
        "examples/a.py": "import only_in_examples\n",
    }
    assert unplaced(root, files) == {}


def test_a_notebook_that_installs_for_itself_is_left_alone(tmp_path: Path) -> None:
    def notebook(*lines: str) -> str:
        return json.dumps({"cells": [{"cell_type": "code", "source": [line]} for line in lines]})

    files = {
        "requirements.txt": "torch\n",
        "a.ipynb": notebook("import torch", "import kornia"),
        "b.ipynb": notebook("!pip install clip_like", "import clip_like"),
    }
    assert unplaced(tmp_path, files) == {"kornia": "a.ipynb:2"}


def test_what_a_dependency_brings_is_not_named(tmp_path: Path) -> None:
    files = {"requirements.txt": "torch\n", "a.py": "import torch, sympy, kornia, huggingface_hub\n"}
    unplaced(tmp_path, files)
    wanted = from_project(read_project(tmp_path), load())
    names = ("torch", "sympy", "huggingface-hub")
    plan = Plan.model_construct(packages=tuple(LockedPackage(name=name, version="1.0") for name in names))
    rows = [(row.subject, row.why.id, row.why.parameters) for row in _unplaced(wanted, plan, Wishes())]
    assert rows == [("kornia", "import-unplaced", {"place": "a.py:1"})]


@pytest.mark.parametrize(
    ("module", "distribution", "brings"),
    [
        ("dateutil", "python-dateutil", True),
        ("yaml", "pyyaml", True),
        ("cv2", "opencv-contrib-python-headless", True),
        ("open_clip", "open-clip-torch", True),
        ("pytorch_lightning", "pytorch-lightning", True),
        ("Bio", "biopython", True),
        ("clip", "eclipse", False),
        ("kornia", "kornia-rs", True),  # in doubt
        ("jax", "jaxlib", False),
        ("tensorflow", "tensorflow-gpu", True),
    ],
)
def test_a_distribution_is_known_by_its_name(module: str, distribution: str, brings: bool) -> None:
    assert is_brought(module, [distribution]) is brings
