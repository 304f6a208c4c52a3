"""Projects that compute with JAX or TensorFlow: what a plan does for them is said; extras stay as written."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bringup.catalog import load
from bringup.facts.project import read_project
from bringup.plan.adapt import _Attempt, _said, _without_torch
from bringup.plan.model import LockedPackage, Plan
from bringup.plan.planner import Resolvers, Wishes, _extras_unknown
from bringup.plan.resolve import Resolved
from bringup.plan.wanted import Wanted, from_project
from bringup.report.tables import reason

SHA = "0" * 64


def wanted_of(root: Path, requirements: str, code: str) -> Wanted:
    (root / "requirements.txt").write_text(requirements)
    (root / "train.py").write_text(code)
    return from_project(read_project(root), load())


def plan_of(*names: str) -> Plan:
    packages = tuple(LockedPackage(name=name, version="1.0") for name in names)
    return Plan.model_construct(packages=packages, choices=(), gpus=("sm_89",), platform="linux-x86_64")


def said(wanted: Wanted, needs_torch: bool = False) -> list[tuple[str, str]]:
    resolvers = Resolvers(Wishes())
    resolvers.needs_torch = needs_torch
    rows = _without_torch(wanted, plan_of("torch", "jax"), resolvers)
    return [(choice.subject, choice.why.id) for choice in rows]


@pytest.mark.parametrize(
    ("requirements", "code", "told"),
    [
        ("jax[cuda12]==0.4.20\nflax\noptax\n", "import jax\n", [("JAX", "other-framework")]),
        ("tensorflow-gpu==1.15\n", "import tensorflow as tf\n", [("TensorFlow", "other-framework")]),
        ("numpy\n", "import jax, cupy\n", [("JAX, CuPy", "other-framework")]),
        ("paddlepaddle-gpu\nmxnet-cu112\n", "", [("PaddlePaddle, MXNet", "other-framework")]),
        ("numpy\n", "import numpy\n", [("PyTorch", "torch-for-proof")]),
        ("torch\njax[cuda12]\n", "import jax\n", []),
        ("jax\n", "import jax, torch\n", []),
        ("jax\ntransformers[torch]\n", "import jax\n", []),
        ("jax\n", "import jax\nfrom simple_knn._C import distCUDA2\n", []),
    ],
)
def test_who_asks_for_torch(
    requirements: str, code: str, told: list[tuple[str, str]], tmp_path: Path
) -> None:
    assert said(wanted_of(tmp_path, requirements, code)) == told


def test_what_requires_torch_asks_for_it(tmp_path: Path) -> None:
    assert said(wanted_of(tmp_path, "jax\nlightning\n", "import jax\n"), needs_torch=True) == []


def test_the_paragraph_names_framework_and_place(tmp_path: Path) -> None:
    wanted = wanted_of(tmp_path, "numpy\njax[cuda12]\n", "import jax\n")
    (choice,) = _without_torch(wanted, plan_of("torch"), _asking_nothing())
    text = reason(choice.why)
    assert "JAX" in text and "requirements.txt:2" in text and "torch 1.0" in text


def _asking_nothing() -> Resolvers:
    resolvers = Resolvers(Wishes())
    resolvers.needs_torch = False
    return resolvers


CONDA = """\
dependencies:
  - python=3.11
  - pip:
    - jax[cuda12]==0.4.35
    - "diffusers[torch]>=0.30"  # for the decoder
    - tomli; python_version < "3.0"
    - -r more.in
    - git+https://example.org/some/thing.git
"""
POETRY = """\
[tool.poetry]
name = "p"
[tool.poetry.dependencies]
jax = { version = "^0.4.35", extras = ["cuda12"] }
diffusers = { version = "*", extras = ["torch"] }
"""


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("environment.yml", CONDA),
        ("pyproject.toml", POETRY),
        ("Dockerfile", "FROM python:3.11\nRUN pip install -U 'jax[cuda12]' diffusers[torch]\n"),
        ("setup.cfg", "[options]\ninstall_requires =\n    jax[cuda12]\n    diffusers[torch]\n"),
    ],
)
def test_extras_stay_as_they_are_written(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    extras = {pin.requirement.name: pin.requirement.extras for pin in read_project(tmp_path).pins}
    assert extras["jax"] == {"cuda12"} and extras["diffusers"] == {"torch"}


def test_extras_of_another_file_are_kept(tmp_path: Path) -> None:
    """The first file pins the release; what a later one asks for beside it is asked for as well."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "p"\ndependencies = ["jax==0.4.35"]\n')
    wanted = wanted_of(tmp_path, "jax[cuda12]\njax[tpu]; python_version < '3'\n", "import jax\n")
    assert str(wanted.pins["jax"][0]) == "jax[cuda12]==0.4.35"


def test_an_extra_that_a_release_lacks_is_named() -> None:
    rows = [
        Resolved("jax", "0.4.20", SHA, "", (), ("cpu", "cuda12_pip")),
        Resolved("uvicorn", "0.30", SHA, "", (), ("standard",)),
    ]
    asked = ["jax[cuda12]==0.4.20", "jax[CUDA12-pip]", "uvicorn[standard]", "numpy", "gone[x]"]
    (choice,) = _extras_unknown(asked, rows)
    assert (choice.subject, choice.chosen) == ("jax[cuda12]==0.4.20", "0.4.20")
    assert choice.why.parameters == {"extra": "cuda12", "offered": "cpu, cuda12-pip"}


@pytest.mark.parametrize(
    ("files", "told"),
    [({}, [("0.10.2", "pin-loosened")]), ({"jaxlib": "file:///w.whl"}, [("–", "file-needed")])],
)
def test_what_is_left_out_and_comes_by_another_is_said_once(
    files: dict[str, str], told: list[tuple[str, str]]
) -> None:
    """jax requires jaxlib: another release of it is locked although the pin had to be left out."""
    pin = Requirement("jaxlib==0.4.13+cuda12.cudnn89")
    wanted = Wanted("p", pins={"jaxlib": (pin, "requirements.txt:2")}, files=files)
    locked = (LockedPackage(name="jaxlib", version="0.10.2"),)
    plan = Plan.model_construct(packages=locked, choices=(), gpus=("sm_89",), platform="linux-x86_64")
    rows = _said(wanted, _Attempt(True, ">=3.10", left_out=frozenset({"jaxlib"})), plan, load())
    assert [(choice.chosen, choice.why.id) for choice in rows] == told
