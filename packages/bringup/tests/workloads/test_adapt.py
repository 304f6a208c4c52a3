"""A project that no recipe knows, and a broken environment: read, planned, applied, run."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bringup.catalog import load
from bringup.errors import BringupError
from bringup.facts.project import read_project
from bringup.plan.adapt import _attempts, _why_moved, loosened, make_recipe
from bringup.plan.model import Plan, read_plan
from bringup.plan.wanted import Wanted, from_project, require_something

COMMAND = [sys.executable, "-c", "from bringup.cli.main import main; main()"]

ENVIRONMENT = """\
name: gaussian_splatting
dependencies:
  - cudatoolkit=11.6
  - plyfile
  - python=3.7.13
  - pip=22.3.1
  - pytorch=1.12.1
  - torchaudio=0.12.1
  - torchvision=0.13.1
  - pip:
    - submodules/diff-gaussian-rasterization
    - submodules/mine
    - joblib==1.0.0
    - git+https://github.com/somebody/something.git@abc
"""
TRAIN = """\
import torch, torchvision
from diff_gaussian_rasterization import GaussianRasterizer
checkpoint = torch.load("a.pth")
if __name__ == "__main__":
    print(1)
"""
SETUP = """\
from setuptools import setup
from torch.utils.cpp_extension import CUDAExtension
setup(name="mine", ext_modules=[CUDAExtension("mine._C", ["a.cu"])])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "splats"
    (root / "submodules" / "mine").mkdir(parents=True)
    (root / "environment.yml").write_text(ENVIRONMENT)
    (root / "requirements.txt").write_text("torch-sparse==0.6.18\nsimple-knn\n")
    (root / "train.py").write_text(TRAIN)
    (root / "submodules" / "mine" / "setup.py").write_text(SETUP)
    return root


def test_what_a_project_asks_for(project: Path) -> None:
    wanted = from_project(read_project(project), load())
    assert {key: str(row[0]) for key, row in wanted.torch.items()} == {
        "torch": "torch==1.12.1",
        "torchvision": "torchvision==0.13.1",
    }
    assert set(wanted.pins) == {"plyfile", "joblib"}
    assert [row.name for row in wanted.extensions] == ["diff-gaussian-rasterization"]
    assert wanted.local_builds == {"mine": "submodules/mine"}
    assert wanted.python == ["==3.7.13"] and wanted.loads and wanted.entry_points == ("train.py",)
    left_out = {choice.subject: choice.why.id for choice in wanted.choices}
    assert left_out == {
        "something": "link-by-hand",
        "torch-sparse": "extension-drop",
        "simple-knn": "extension-drop",
        "torchaudio": "extension-drop",
    }


def test_torch_gives_way_before_python_does(project: Path) -> None:
    wanted = from_project(read_project(project), load())
    tries = [(attempt.torch_is_free, attempt.python) for attempt in _attempts(wanted)]
    assert tries == [(False, "==3.7.13"), (True, "==3.7.13"), (False, ">=3.10"), (True, ">=3.10")]
    recipes = [make_recipe(wanted, attempt) for attempt in _attempts(wanted)]
    assert [recipe.torch.range for recipe in recipes] == ["==1.12.1", ">=1.12.1"] * 2
    assert [row.spec for row in recipes[0].requirements] == ["joblib==1.0.0", "plyfile", "numpy<2"]
    assert {row.distribution: row.ways for row in recipes[0].extensions} == {
        "diff-gaussian-rasterization": ("portable",),
        "mine": ("build",),
    }
    assert recipes[0].source is not None and [row.id for row in recipes[0].patches] == ["safe-torch-load"]


@pytest.mark.parametrize(
    ("pin", "why"),
    [
        ("torch==1.12.1", "pin-moved-for-gpu"),
        ("torchvision==0.13.1", "pin-moved-for-gpu"),
        ("torch==2.9.1", "pin-loosened"),
        ("torchvision==0.24.1", "pin-follows-torch"),
        ("numpy==1.19.0", "pin-loosened"),
        ("index-ops==1.0", "pin-moved-for-gpu"),
    ],
)
def test_why_a_pin_moves(pin: str, why: str) -> None:
    requirement = Requirement(pin)
    plan = Plan.model_construct(gpus=("sm_120",), platform="linux-x86_64")
    wanted = Wanted("some", unfit={"index-ops": "sm_80"})
    assert _why_moved(requirement.name, requirement, wanted, plan, load()) == why


@pytest.mark.parametrize(
    ("platform", "gpu", "why"),
    [
        ("linux-x86_64", "sm_75", "pin-loosened"),
        ("linux-aarch64", "sm_75", "pin-moved-for-gpu"),  # its wheels for aarch64 begin with sm_80
        ("linux-aarch64", "sm_110", "pin-loosened"),
        ("linux-x86_64", "sm_110", "pin-moved-for-gpu"),
        ("macosx-arm64", "sm_75", "pin-moved-for-gpu"),
    ],
)
def test_code_is_that_of_the_platform(platform: str, gpu: str, why: str) -> None:
    requirement = Requirement("torch==2.11.0")
    plan = Plan.model_construct(gpus=(gpu,), platform=platform)
    assert _why_moved("torch", requirement, Wanted("some"), plan, load()) == why


@pytest.mark.parametrize(
    ("pin", "freed"),
    [
        ("a==1.2", "a>=1.2"),
        ("a~=1.2", "a>=1.2"),
        ("a==1.*", "a>=1"),
        ("a>=1,<2", "a>=1"),
        ("a[x]!=3", "a[x]"),
    ],
)
def test_loosening_keeps_the_lower_bound(pin: str, freed: str) -> None:
    assert str(loosened(Requirement(pin))) == freed


def test_a_folder_that_asks_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.py").write_text("import json\n")
    with pytest.raises(BringupError, match="project-says-nothing"):
        require_something(from_project(read_project(tmp_path), load()), tmp_path)


def bringup(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"BRINGUP_HOME": str(home), "LC_ALL": "C.UTF-8", "COLUMNS": "200"}
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=variables, timeout=900)


@pytest.mark.slow
def test_a_broken_environment_is_planned_anew(tmp_path: Path) -> None:
    """A pin that no newer Python serves, and one that stays: a new environment in place of a venv."""
    old = tmp_path / "work" / ".venv"
    venv.create(old, with_pip=False)
    site = next((old / "lib").glob("python*")) / "site-packages"
    for name, version in (("idna", "3.7"), ("numpy", "1.19.0"), ("torch", "1.12.1")):
        (site / f"{name}-{version}.dist-info").mkdir()
        (site / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    ran = bringup(tmp_path / "home", "plan", "--env", str(old), "--cpu", "-o", str(tmp_path / "p.toml"))
    assert ran.returncode == 0, ran.stderr
    plan = read_plan(tmp_path / "p.toml")
    assert plan.environment == "work"
    locked = {row.name: row.version for row in plan.packages}
    assert locked["idna"] == "3.7" and locked["numpy"] != "1.19.0"
    assert {choice.subject for choice in plan.choices} >= {"numpy", "torch"}


@pytest.mark.slow
def test_what_no_index_has_is_left_out_and_said(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    (root / "requirements.txt").write_text(
        "torch\nidna==3.7\nbringup-has-no-such-thing==1.0\ncertifi==99.0\n"
    )
    (root / "train.py").write_text("import torch\n")
    ran = bringup(tmp_path / "home", "up", "--project", str(root), "--cpu", "--dry-run")
    assert ran.returncode == 0, ran.stderr
    assert "bringup-has-no-such-thing" in ran.stdout and "left out" in ran.stdout
    plan = read_plan(tmp_path / "home" / "environments" / "work" / "plan.toml")
    assert {row.name for row in plan.packages} >= {"idna", "torch"}
    assert "bringup-has-no-such-thing" not in {row.name for row in plan.packages}
    nowhere = {choice.subject for choice in plan.choices if choice.why.id == "pin-nowhere"}
    assert nowhere == {"bringup-has-no-such-thing"}  # the other has versions: one of them is taken


def test_one_thing_to_plan_for(tmp_path: Path) -> None:
    for words in (["plan"], ["plan", "prostate-ssl", "--env", "."], ["up"]):
        ran = bringup(tmp_path, *words)
        assert ran.returncode == 2 and "bringup recipes" in ran.stderr, ran.stderr


@pytest.mark.parametrize(
    ("pin", "old_numpy"), [("==2.0.1", True), ("==2.2.*", True), ("==2.14.0", False), ("==2.6.0", False)]
)
def test_numpy_of_an_old_torch(pin: str, old_numpy: bool, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(f"torch{pin}\n")
    (tmp_path / "train.py").write_text("import torch\n")
    wanted = from_project(read_project(tmp_path), load())
    recipe = make_recipe(wanted, next(iter(_attempts(wanted))))
    assert ("numpy<2" in [row.spec for row in recipe.requirements]) is old_numpy
