"""What projects' files say in less usual ways: read as their own tools read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bringup.catalog import load
from bringup.facts.interpreters import Interpreter
from bringup.facts.project import read_project
from bringup.plan.wanted import Wanted, from_project

POETRY = """\
[tool.poetry]
name = "po"
[tool.poetry.dependencies]
python = ">=3.9,<3.13 || >=3.14"
torch = {version = "^2.1", source = "pytorch"}
numpy = [{version="<2", markers="sys_platform == 'nothing'"}, {version=">=1.26", python=">=3.6"}]
pandas = {version="*", markers="sys_platform == 'win32'"}
mylib = {path = "../mylib", develop = true}
xx = {git = "https://example.org/a/xx.git", branch="main"}
yy = {url = "https://example.org/yy-1.0-py3-none-any.whl"}
tqdm = ">=4,<5 || >=6"
[tool.poetry.group.dev.dependencies]
pytest = "*"
[tool.poetry.group.train.dependencies]
accelerate = "0.30"
"""
DYNAMIC = """\
[project]
name = "dyn"
dynamic = ["version", "dependencies"]
[tool.setuptools.dynamic]
dependencies = { file = ["reqs/base.in"] }
"""
GROUPS = """\
[project]
name = "grouped"
dependencies = ["torch>=2.1", "splat", "rich"]
[project.optional-dependencies]
docs = ["sphinx"]
[dependency-groups]
dev = [{ include-group = "Lint_er" }, "ipython"]
Lint-er = ["ruff"]
test = ["pytest", { include-group = "train" }]
train = ["accelerate==0.30", { include-group = "data" }, "grouped"]
data = ["h5py", { include-group = "train" }, { include-group = "gone" }]
[tool.uv.sources]
torch = [{ index = "pytorch-cu121", marker = "sys_platform == 'linux'" }]
splat = { git = "https://example.org/a/splat.git", rev = "abc" }
rich = { workspace = true }
"""
PIXI = """\
[dependencies]
python = "3.11.*"
pytorch = ">=2.1,<3"
cuda-version = "12.*"
opencv = "*"
numpy = "1.26"
ffmpeg = "*"
[pypi-dependencies]
einops = ">=0.7"
mine = { path = ".", editable = true }
[feature.dev.dependencies]
pytest = "*"
"""
CONDA = """\
name: foo
channels: [pytorch, nvidia]
dependencies:
  - python=3.10
  - pytorch::pytorch=2.1.0=py3.10_cuda12.1_cudnn8.9.2_0
  - ffmpeg
  - librosa
  - opencv
  - scikit-learn 1.3.0
  - pip
  - pip:
      - -r reqs.in
      - ffmpeg
      - "timm>=0.9"
variables:
  FOO: bar
"""
DOCKER = """\
ARG TAG=2.1.0-cuda12.1-cudnn8-devel
FROM pytorch/pytorch:${TAG} AS base
ARG EINOPS_VERSION=0.7.0
ENV NP=1.26.4
RUN --mount=type=cache,target=/root/.cache pip install --no-cache-dir \\
    # why
    einops==${EINOPS_VERSION} "numpy==$NP" 'timm>=0.9,<1' && echo hi==1
RUN ["pip", "install", "tqdm==4.66.0"]
RUN conda install -y scipy=1.11.1 cudnn=8.9 -c pytorch
RUN <<EOF
pip install requests==2.31.0
EOF
"""
SETUP = """\
import os, torch
from setuptools import setup
ext = []
reqs = ["torch>=2.0"]
reqs += ["einops"]
if os.environ.get("BUILD_CUDA", "1") == "1" and torch.cuda.is_available():
    from torch.utils.cpp_extension import CUDAExtension
    ext.append(CUDAExtension("mine._C", ["a.cu"]))
setup(name="mine", ext_modules=ext, install_requires=reqs + ["tqdm", *["rich"]], python_requires=">=3.8")
"""
LINES = """\
--extra-index-url=https://download.pytorch.org/whl/cu118
-c constraints.in
-e .
torch==1.9.0; sys_platform == "nothing"
torch==2.0.0+cu118; sys_platform != "nothing" \\
    --hash=sha256:aaaa
pandas>=2
requests[security]>=2,<3  # why
./local_pkg
${ENVVAR}==1.0
"""


ADDRESSES = """\
torch @ https://download.pytorch.org/whl/cu118/torch-2.0.1%2Bcu118-cp310-cp310-linux_x86_64.whl
https://download.pytorch.org/whl/cu118/torchvision-0.15.2%2Bcu118-cp310-cp310-linux_x86_64.whl ; sys_platform != "nothing"
https://example.org/torch/mine-1.0-py3-none-any.whl
apex @ https://example.org/apex-0.1-cp310-cp310-linux_x86_64.whl#sha256=00
idna==3.7
"""
CONDA_ADDRESS = """\
dependencies:
  - pip:
    - https://download.pytorch.org/whl/torchaudio-2.0.2-cp310-cp310-linux_x86_64.whl#sha256=00
"""


def wanted_of(root: Path, **files: str | bytes) -> Wanted:
    for name, text in {"main__py": "import torch\n", **files}.items():
        path = root / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return from_project(read_project(root), load())


def asked(wanted: Wanted) -> set[str]:
    rows = {**wanted.pins, **wanted.torch}
    return {f"{requirement.name}{requirement.specifier}" for requirement, _ in rows.values()}


def by_hand(wanted: Wanted) -> set[str]:
    return {choice.subject for choice in wanted.choices if choice.why.id == "link-by-hand"}


@pytest.mark.parametrize(
    ("files", "python", "pins", "links"),
    [
        (
            {"pyproject__toml": POETRY},
            ["<3.13,>=3.9"],
            {"torch<3,>=2.1", "numpy>=1.26", "pandas", "tqdm>=6", "accelerate==0.30"},
            {"mylib", "xx", "yy-1.0-py3-none-any.whl"},
        ),
        (
            {"pyproject__toml": DYNAMIC, "reqs___base__in": "torch>=2.0\neinops==0.7.0\n"},
            [],
            {"torch>=2.0", "einops==0.7.0"},
            set(),
        ),
        (
            {"pyproject__toml": GROUPS},
            [],
            {"torch>=2.1", "accelerate==0.30", "h5py"},
            {"splat", "rich"},
        ),
        (
            {"pixi__toml": PIXI},
            ["==3.11.*"],
            {"torch<3,>=2.1", "numpy==1.26", "opencv-python-headless", "einops>=0.7"},
            set(),
        ),
        (
            {"environment__yaml": CONDA, "reqs__in": "tqdm\n"},
            ["==3.10.*"],
            {
                "torch==2.1.0",
                "librosa",
                "opencv-python-headless",
                "scikit-learn==1.3.0",
                "ffmpeg",
                "timm>=0.9",
                "tqdm",
            },
            set(),
        ),
        (
            {"Dockerfile": DOCKER},
            [],
            {
                "torch==2.1.0",
                "einops==0.7.0",
                "numpy==1.26.4",
                "timm<1,>=0.9",
                "tqdm==4.66.0",
                "scipy==1.11.1",
                "requests==2.31.0",
            },
            set(),
        ),
        ({"setup__py": SETUP}, [">=3.8"], {"torch>=2.0", "einops", "tqdm", "rich"}, set()),
        (
            {"requirements__txt": LINES, "constraints__in": "pandas<2.2\ncertifi==2020.1.1\n"},
            [],
            {"torch==2.0.0", "pandas<2.2,>=2", "requests<3,>=2"},
            {"local_pkg"},
        ),
        (
            {
                "requirements__txt": ADDRESSES,
                "environment__yml": CONDA_ADDRESS,
                "main__py": "import torch, torchvision, torchaudio\n",
            },
            [],
            {"torch==2.0.1", "torchvision==0.15.2", "torchaudio==2.0.2", "idna==3.7"},
            {"mine-1.0-py3-none-any.whl", "apex-0.1-cp310-cp310-linux_x86_64.whl"},
        ),
        (
            {
                "requirements___runtime__txt": "einops\n",
                "requirements___tests__txt": "pytest\n",
                "requirements___optional__txt": "pandas\n",
                "requirements___requirements_gui__txt": "gradio\n",
                "setup__py": "setup(install_requires='scipy\\nidna==3.7', python_requires='>=3.9')\n",
                "pyproject__toml": "[project]\nname = 'x'\ndependencies = 'abc'\n",
            },
            [">=3.9"],
            {"einops", "gradio", "scipy", "idna==3.7"},
            set(),
        ),
        (
            {"requirements__txt": "torch==2.1.0\r\neinops\r\n".encode("utf-16")},
            [],
            {"torch==2.1.0", "einops"},
            set(),
        ),
    ],
    ids=[
        "poetry",
        "dynamic",
        "groups",
        "pixi",
        "conda",
        "docker",
        "setup",
        "requirements",
        "addresses",
        "folder",
        "powershell",
    ],
)
def test_what_is_asked_for(
    files: dict[str, str | bytes], python: list[str], pins: set[str], links: set[str], tmp_path: Path
) -> None:
    wanted = wanted_of(tmp_path, **files)
    assert wanted.python == python
    assert asked(wanted) == pins
    assert by_hand(wanted) == links


BY_PYTHON = """\
torch==1.13.1; python_version < "3.9"
torch==2.4.0; python_version >= "3.9" and python_version < "3.13"
torch>=2.6; python_version >= "3.13"
torchvision==0.14; python_version < "3.9"
numpy<1.25; python_version < "3.9"
numpy<2; python_full_version < "3.12.4" and implementation_name == "cpython"
numpy>=2; python_full_version >= "3.12.4"
flash-attn==1.0.9; python_version < "3.9"
tomli; python_version < "3.11"
"""


@pytest.mark.parametrize(
    ("version", "torch", "numpy"),
    [("3.8.18", "==1.13.1", "<1.25,<2"), ("3.12.3", "==2.4.0", "<2"), ("3.13.1", ">=2.6", ">=2")],
)
def test_markers_are_judged_by_the_python_that_is_chosen(
    version: str, torch: str, numpy: str, tmp_path: Path
) -> None:
    (tmp_path / "requirements.txt").write_text(BY_PYTHON)
    (tmp_path / "main.py").write_text("import torch, torchvision\n")
    python = Interpreter("/usr/bin/python3", version, "CPython", True, "linux-x86_64")
    wanted = from_project(read_project(tmp_path), load(), python.markers)
    assert str(wanted.torch["torch"][0].specifier) == torch
    assert str(wanted.pins["numpy"][0].specifier) == numpy
    assert bool(str(wanted.torch["torchvision"][0].specifier)) is (version == "3.8.18")
    assert any("flash-attn" in name for name in (*wanted.extension_pins, *wanted.pins)) is (
        version == "3.8.18"
    )


def test_groups_of_developers_are_named(tmp_path: Path) -> None:
    named = {
        choice.subject: choice.why.parameters.get("place")
        for choice in wanted_of(tmp_path, pyproject__toml=GROUPS).choices
        if choice.why.id == "group-for-developers"
    }
    lines = {"[docs]": 5, "[dev]": 7, "[Lint-er]": 8, "[test]": 9}
    assert named == {group: f"pyproject.toml:{line}" for group, line in lines.items()}


def test_an_extension_under_a_condition_is_one(tmp_path: Path) -> None:
    wanted = wanted_of(tmp_path, setup__py=SETUP, a__cu="", main__py="import torch\nfrom mine import _C\n")
    assert wanted.local_builds == {"mine": "."}


def test_notebooks_are_read_for_what_they_import(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["import pandas\n"]},
        {
            "cell_type": "code",
            "source": ["%matplotlib inline\n", "!pip list\n", "import torch, torch_scatter\n"],
        },
        {"cell_type": "code", "source": "this is no Python"},
        {"cell_type": "code", "source": "from einops import rearrange\n", "outputs": []},
        {"cell_type": "code"},
        {"cell_type": "code", "source": [1, None]},
        "no cell",
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    (tmp_path / "b.ipynb").write_text("[1, 2]")
    (tmp_path / "c.ipynb").write_text("no JSON")
    project = read_project(tmp_path)
    assert project.imports == {"torch": "a.ipynb:1", "torch_scatter": "a.ipynb:1", "einops": "a.ipynb:3"}
    assert [file for file, _ in project.unreadable] == ["c.ipynb"]
    wanted = from_project(project, load())
    assert set(wanted.pins) == {"einops"} and [row.name for row in wanted.extensions] == ["torch-scatter"]


def test_nesting_without_end_is_named_as_unreadable(tmp_path: Path) -> None:
    deep = "[" * 200_000
    files = {"minus.py": "x=" + "-" * 100_000 + "1", "pyproject.toml": f"a={deep}", "deep.ipynb": deep}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    cells = [{"cell_type": "code", "source": [source]} for source in ("x=" + "-" * 100_000, "import torch")]
    (tmp_path / "cells.ipynb").write_text(json.dumps({"cells": cells}))
    project = read_project(tmp_path)
    assert {name for name, _ in project.unreadable} == files.keys()
    assert project.imports == {"torch": "cells.ipynb:2"}


def test_files_outside_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.in").write_text("einops==0.7.0\n")
    text = DYNAMIC.replace("reqs/base.in", "../secret.in")
    wanted = wanted_of(
        tmp_path / "project",
        pyproject__toml=text,
        requirements__txt="-r ../secret.in\n-c ../secret.in\neinops\n",
    )
    assert asked(wanted) == {"einops"}
