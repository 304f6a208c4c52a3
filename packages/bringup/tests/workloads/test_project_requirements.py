"""What the files of a project require, in every form that people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bringup.catalog import load
from bringup.facts.project import read_project
from bringup.facts.project_requirements import pins_of_environment, serves_the_project
from bringup.facts.project_tables import read_pyproject
from bringup.plan.wanted import from_project

EXPORTED = """\
name: old
channels:
  - nvidia
  - conda-forge
  - defaults
dependencies:
  - aws-c-auth=0.7.0=h09b4c1d_4
  - icu=70.1=h27087fc_0
  - numpy=1.26.0=py39h474f0d3_0
  - addict=2.4.0=pyhd8ed1ab_2
  - python=3.9.18=h955ad1f_0
  - pytorch=2.0.1=py3.9_cuda11.7_cudnn8.5.0_0
  - conda-forge::scipy=1.10
  - pandas
  - pip:
      - yapf==0.40.1
prefix: /opt/conda/envs/old
"""
POETRY = """\
[tool.poetry]
name = "mine"
[tool.poetry.dependencies]
python = "^3.9"
torch = "~2.1"
numpy = { version = "^1.24.2", extras = ["x"] }
rich = "*"
exact = "0.3.1"
early = "^0.3"
both = ">=1,<3"
splat = { git = "https://example.org/splat.git", rev = "abc" }
extra = { version = "1.0", optional = true }
[tool.poetry.group.dev.dependencies]
pytest = "^7"
"""
PEP621 = """\
[project]
name = "Fast-Thing"
requires-python = ">=3.10"
dependencies = ["numpy<2", "lapy>=1.1"]
[project.optional-dependencies]
doc = ["sphinx"]
train = ["accelerate"]
all = ["fast_thing[doc]"]
test-cpu = ["pytest"]
"""


def names(root: Path) -> dict[str, str]:
    return {pin.requirement.name: str(pin.requirement.specifier) for pin in read_project(root).pins}


def test_channels_and_libraries_of_conda_are_no_pins() -> None:
    pins = {
        pin.requirement.name: str(pin.requirement.specifier) for pin in pins_of_environment(EXPORTED, "e")
    }
    assert pins == {
        "numpy": "==1.26.0",
        "addict": "==2.4.0",
        "python": "==3.9.18",
        "torch": "==2.0.1",
        "scipy": "==1.10.*",
        "pandas": "",
        "yapf": "==0.40.1",
    }


def test_poetry() -> None:
    pins, links, pythons = read_pyproject(POETRY, "pyproject.toml")
    assert {pin.requirement.name: str(pin.requirement.specifier) for pin in pins} == {
        "torch": "<2.2,>=2.1",
        "numpy": "<2,>=1.24.2",
        "rich": "",
        "exact": "==0.3.1",
        "early": "<0.4,>=0.3",
        "both": "<3,>=1",
    }
    assert [link.name for link in links] == ["splat"] and pythons == ["<4,>=3.9"]


def test_extras_of_developers_are_left_out() -> None:
    pins, _, pythons = read_pyproject(PEP621, "pyproject.toml")
    assert [pin.requirement.name for pin in pins] == ["numpy", "lapy", "accelerate"] and pythons == [">=3.10"]


@pytest.mark.parametrize(
    ("file", "serves"),
    [
        ("requirements.txt", True),
        ("requirements-extras.txt", True),
        ("examples/requirements.txt", True),
        ("requirements-dev.txt", False),
        ("requirements_test.txt", False),
        ("requirements.cpu.txt", False),
        ("docs/requirements.txt", False),
    ],
)
def test_requirements_for_whom(file: str, serves: bool) -> None:
    assert serves_the_project(file) is serves


def test_included_files_setup_cfg_and_named_lists(tmp_path: Path) -> None:
    (tmp_path / "reqs").mkdir()
    (tmp_path / "requirements.txt").write_text(
        "-r reqs/base.in\n-r ../outside.txt\nidna==3.7\n-c limits.txt\n"
    )
    (tmp_path / "reqs" / "base.in").write_text("packaging>=24\n-r ../requirements.txt\n")
    (tmp_path.parent / "outside.txt").write_text("evil\n")
    (tmp_path / "setup.cfg").write_text(
        "[options]\npython_requires = >=3.8\ninstall_requires =\n    h5py>=3\n    tqdm\n"
    )
    (tmp_path / "setup.py").write_text("NEEDED = ['scipy', 'einops==0.6']\nsetup(install_requires=NEEDED)\n")
    assert names(tmp_path) == {
        "packaging": ">=24", "idna": "==3.7", "h5py": ">=3", "tqdm": "", "scipy": "", "einops": "==0.6"
    }  # fmt: skip
    assert read_project(tmp_path).requires_python == (">=3.8",)


def test_a_dockerfile_alone(tmp_path: Path) -> None:
    text = "FROM --platform=linux/amd64 docker.io/pytorch/pytorch:1.13.1-cuda11.6-cudnn8-devel\nRUN pip install idna==3.7\n"
    (tmp_path / "Dockerfile").write_text(text)
    assert names(tmp_path) == {"torch": "==1.13.1", "idna": "==3.7"}


def test_an_extension_is_known_by_the_name_that_it_installs_under(tmp_path: Path) -> None:
    root = tmp_path / "pytorch_scatter"
    root.mkdir()
    (root / "setup.py").write_text(
        "from torch.utils.cpp_extension import CUDAExtension\nsetup(name='torch_scatter', version='2')\n"
    )
    (root / "use.py").write_text("import torch_scatter\n")
    wanted = from_project(read_project(root), load())
    assert wanted.local_builds == {"torch-scatter": "."}
    assert [row.name for row in wanted.extensions] == ["torch-scatter"]


def test_what_is_imported_and_asked_for_nowhere_is_added(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("torch\nopencv-python==4.8.0.74\nscipy>=1.9\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_all.py").write_text("import pandas\n")
    (tmp_path / "trimesh").mkdir()
    (tmp_path / "trimesh" / "__init__.py").write_text("")
    program = "import numpy as np, torch, cv2, scipy, trimesh, os, unknown_thing\nfrom PIL import Image\n"
    (tmp_path / "train.py").write_text(program)
    wanted = from_project(read_project(tmp_path), load())
    assert set(wanted.pins) == {"opencv-python", "scipy", "numpy", "pillow"}
    added = {choice.subject: choice.why.parameters for choice in wanted.choices}
    assert added["numpy"] == {"place": "train.py:1"} and added["Pillow"] == {"place": "train.py:2"}
