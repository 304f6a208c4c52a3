"""What the files of a project require, in every form that people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bringup.catalog import load
from bringup.facts.project import read_project
from bringup.facts.project_requirements import (
    is_recorded,
    links_of_environment,
    pins_of_environment,
    serves_the_project,
)
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


RECORDED = """\
name: dino
channels:
  - nvidia/label/cuda-11.8.0
dependencies:
  - aiohttp=3.8.5=py39ha55989b_0
  - attrs=23.1.0=pyh71513ae_1
  - certifi=2023.7.22=py39haa95532_0
  - click=8.1.7=py39h_0
  - datasets=2.14.5=pyhd8ed1ab_0
  - huggingface_hub=0.17.3=pyhd8ed1ab_0
  - idna=3.4=py39haa95532_0
  - libpng=1.6=h1
  - numpy=1.26.0=py39h474f0d3_0
  - opencv=4.5.3=py39h832f523_8
  - python=3.9.18=h1aa4202_0
  - pytorch=2.0.1=py3.9_cuda11.8_cudnn8_0
  - yarl=1.9.2=py39ha55989b_0
  - pip:
      - python-dateutil==2.8.2
      - timm==0.9.7
      - transformers==4.33.2
      - git+https://example.org/tool.git
prefix: C:/conda/envs/dino
"""


def test_of_a_recorded_environment_what_the_project_imports(tmp_path: Path) -> None:
    """`conda env export` beside requirements.txt: not 150 versions that fit one torch on one machine."""
    (tmp_path / "environment.yaml").write_text(RECORDED)
    (tmp_path / "requirements.txt").write_text("torch\ntransformers<5\ntimm>=1\naddict\nopencv-python\n")
    (tmp_path / "run.py").write_text(
        "import cv2, dateutil, huggingface_hub, numpy, timm, torch, transformers\n"
    )
    project = read_project(tmp_path)
    assert project.recorded == ("environment.yaml",)
    wanted = from_project(project, load())
    assert {key: str(row[0].specifier) for key, row in wanted.pins.items()} == {
        "transformers": "==4.33.2",  # by hand, at the recorded release
        "timm": ">=1",  # which excludes the recorded one
        "addict": "",
        "opencv-python": "",
        "huggingface-hub": "==0.17.3",
        "numpy": "==1.26.0",
        "python-dateutil": "==2.8.2",
    }
    assert str(wanted.torch["torch"][0]) == "torch==2.0.1" and wanted.python == []
    assert [row.why.id for row in wanted.choices if row.subject == "environment.yaml"] == [
        "environment-recorded"
    ]
    (tmp_path / "requirements.txt").unlink()
    alone = from_project(read_project(tmp_path), load())
    assert set(alone.pins) == set(wanted.pins) - {"addict", "opencv-python"} | {"opencv-python-headless"}
    assert alone.python == ["==3.9.18"]


def test_what_is_a_record() -> None:
    assert is_recorded(RECORDED) and not is_recorded(EXPORTED)
    without_builds = "dependencies:\n" + "".join(f"  - p{n}=1.{n}\n" for n in range(50))
    assert not is_recorded(without_builds) and is_recorded(without_builds + "prefix: /opt/x\n")


def test_a_channel_is_no_link() -> None:
    assert [row.name for row in links_of_environment(RECORDED, "e")] == ["tool"]


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


PIPFILE = """\
[[source]]
url = "https://pypi.org/simple"
name = "pypi"
[packages]
torch = "==1.12.1"
numpy = "~=1.21"
pandas = "*"
jax = {version = ">=0.4", extras = ["cuda12"]}
splat = {git = "https://example.org/splat.git", ref = "abc"}
mine = {path = ".", editable = true}
[dev-packages]
pytest = "*"
[requires]
python_version = "3.8"
"""


def test_pipenv(tmp_path: Path) -> None:
    (tmp_path / "Pipfile").write_text(PIPFILE)
    assert names(tmp_path) == {"torch": "==1.12.1", "numpy": "~=1.21", "pandas": "", "jax": ">=0.4"}
    project = read_project(tmp_path)
    assert [pin.requirement.extras for pin in project.pins if pin.requirement.name == "jax"] == [{"cuda12"}]
    assert [link.name for link in project.links if link.name != "."] == ["splat"]
    assert project.requires_python == ("==3.8.*",)


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
    for file in ("Dockerfile", "server.Dockerfile"):
        (tmp_path / file).write_text(text)
        assert names(tmp_path) == {"torch": "==1.13.1", "idna": "==3.7"}
        (tmp_path / file).unlink()


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


def test_cmake_is_no_package(tmp_path: Path) -> None:
    setup = "from torch.utils.cpp_extension import CUDAExtension\nsetup(name='grid')\n"
    cmake = "project(a LANGUAGES CXX CUDA)\n"
    for file, text in (
        ("a/setup.py", setup),
        ("a/csrc/CMakeLists.txt", cmake),
        ("app/CMakeLists.txt", cmake),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    wanted = from_project(read_project(tmp_path), load())
    assert wanted.local_builds == {"grid": "a"}
    assert [(row.subject, row.why.id) for row in wanted.choices] == [("app/CMakeLists.txt", "cmake-by-hand")]
