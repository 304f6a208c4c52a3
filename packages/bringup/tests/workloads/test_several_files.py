"""Projects that say one thing in several files, or hold what they ask for themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from bringup.catalog import load
from bringup.facts.project import read_project
from bringup.plan.wanted import Wanted, from_project

CUDA_SETUP = """\
from setuptools import setup
from torch.utils.cpp_extension import CUDAExtension
NAME = "the-distribution"
setup(
    ext_modules=[CUDAExtension(name="the_extension", sources=["a.cu"])],
    name=NAME,
)
"""


def wanted_of(root: Path, files: dict[str, str]) -> Wanted:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return from_project(read_project(root), load())


def asked(wanted: Wanted) -> dict[str, str]:
    return {key: str(requirement) for key, (requirement, _) in wanted.pins.items()}


def said(wanted: Wanted, why: str) -> list[tuple[str, str]]:
    return [(choice.subject, choice.chosen) for choice in wanted.choices if choice.why.id == why]


def test_bounds_of_several_files_hold_together(tmp_path: Path) -> None:
    files = {
        "requirements.txt": "torch\nnumpy>=1.20\ntransformers\n",
        "setup.py": "setup(install_requires=['torch<2.9', 'numpy<2', 'transformers<4.40'])",
    }
    wanted = wanted_of(tmp_path, files)
    assert asked(wanted) == {"numpy": "numpy<2,>=1.20", "transformers": "transformers<4.40"}
    assert str(wanted.torch["torch"][0]) == "torch<2.9"
    assert wanted.pins["numpy"][1] == "requirements.txt:2, setup.py:1"
    assert not wanted.choices


def test_of_bounds_that_contradict_the_first_stay_and_it_is_said(tmp_path: Path) -> None:
    files = {"requirements.txt": "numpy>=2\n", "setup.cfg": "[options]\ninstall_requires =\n  numpy<2\n"}
    wanted = wanted_of(tmp_path, files)
    assert asked(wanted) == {"numpy": "numpy>=2"}
    assert said(wanted, "bounds-contradict") == [("numpy", ">=2")]


def test_a_marker_that_does_not_hold_bounds_nothing(tmp_path: Path) -> None:
    text = "numpy>=1.20\nnumpy<1.19 ; python_version < '3'\n"
    assert asked(wanted_of(tmp_path, {"requirements.txt": text})) == {"numpy": "numpy>=1.20"}


@pytest.mark.parametrize("file", ["third_party/tool/requirements.txt", "docker/Dockerfile"])
def test_parts_and_images_do_not_narrow_the_whole(file: str, tmp_path: Path) -> None:
    text = "RUN pip install numpy==1.19\n" if file.endswith("Dockerfile") else "numpy==1.19\n"
    wanted = wanted_of(tmp_path, {"requirements.txt": "numpy\n", file: text})
    assert asked(wanted) == {"numpy": "numpy"}
    assert not wanted.choices


def test_what_lies_in_the_project_is_not_taken_from_an_index(tmp_path: Path) -> None:
    files = {
        "setup.py": "setup(name='root', install_requires=['torch', 'einops', 'se3_transformer'])",
        "env/einops/setup.py": "setup(name='einops')",
        "env/SE3/pyproject.toml": "[project]\nname = 'se3-transformer'\n",
        "main.py": "import torch, einops\n",
    }
    wanted = wanted_of(tmp_path, files)
    assert asked(wanted) == {}
    left = {row.subject: row.why.parameters["folder"] for row in wanted.choices if row.why.id == "own-folder"}
    assert left == {"einops": "./env/einops", "se3_transformer": "./env/SE3"}


def test_an_extensions_name_is_not_the_distributions(tmp_path: Path) -> None:
    files = {"setup.py": CUDA_SETUP, "a.cu": "", "main.py": "import the_distribution, torch\n"}
    wanted = wanted_of(tmp_path, files)
    assert wanted.local_builds == {"the-distribution": "."}


def test_a_module_that_is_built_here_is_not_missing(tmp_path: Path) -> None:
    setup = (
        "from torch.utils.cpp_extension import CUDAExtension\nsetup(name='MultiScaleAttention', **options)\n"
    )
    files = {"models/ops/setup.py": setup, "main.py": "import MultiScaleAttention, kornia\n"}
    wanted = wanted_of(tmp_path, files)
    assert set(wanted.local_builds) == {"multiscaleattention"}
    assert set(wanted.unplaced) == {"kornia"}


def test_a_copy_of_an_extension_has_the_same_name(tmp_path: Path) -> None:
    """It is built once."""
    setup = "from torch.utils.cpp_extension import CUDAExtension\nsetup(name='ops')\n"
    wanted = wanted_of(
        tmp_path, {"a/one/setup.py": setup, "b/two/setup.py": setup, "main.py": "import ops\n"}
    )
    assert wanted.local_builds == {"ops": "a/one"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("setup.cfg", "[options.extras_require]\ntrain =\n  kornia\n  timm==0.4.12\ndev = pytest\n"),
        (
            "setup.py",
            "E = {'train': ['kornia', 'timm==0.4.12'], 'dev': ['pytest']}\nsetup(extras_require=E)\n",
        ),
        ("setup.py", "setup(extras_require={'train': ['kornia', 'timm==0.4.12'], 'dev': ['pytest']})\n"),
    ],
)
def test_extras_are_taken_by_the_rule_of_pyproject(file: str, text: str, tmp_path: Path) -> None:
    wanted = wanted_of(tmp_path, {file: text})
    assert asked(wanted) == {"kornia": "kornia", "timm": "timm==0.4.12"}
    assert said(wanted, "group-for-developers") == [("[dev]", "–")]


def test_a_scripts_own_block_is_read(tmp_path: Path) -> None:
    text = (
        "#!/usr/bin/env -S uv run\n# /// script\n# requires-python = '>=3.11'\n"
        "# dependencies = [\n#   'torch==2.0.1',\n#   'kornia>=0.7',\n# ]\n#\n# ///\n# 'a comment'\nimport torch\n"
    )
    wanted = wanted_of(tmp_path, {"train.py": text})
    assert wanted.pins["kornia"][1] == "train.py:6"
    assert (str(wanted.torch["torch"][0]), wanted.python) == ("torch==2.0.1", [">=3.11"])


def test_a_block_that_is_no_toml_is_named_and_its_imports_count(tmp_path: Path) -> None:
    wanted = wanted_of(tmp_path, {"train.py": "# /// script\n# dependencies = [\n# ///\nimport torch\n"})
    assert said(wanted, "file-unread") == [("train.py", "–")]
    assert wanted.imports == ["torch"]
