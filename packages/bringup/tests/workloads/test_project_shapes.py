"""Shapes of real research projects that once led to a crash or to nonsense in a plan."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bringup.catalog import load
from bringup.facts.project import read_project
from bringup.plan.adapt import _attempts, loosened, make_recipe
from bringup.plan.wanted import Wanted, from_project, python_ranges


def wanted_of(root: Path, **files: str) -> Wanted:
    """What a project asks for; `a__b_txt` is the file `a/b.txt`."""
    for name, text in files.items():
        path, _, suffix = name.replace("__", "/").rpartition("_")
        file = root / f"{path}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return from_project(read_project(root), load())


def left_out(wanted: Wanted) -> dict[str, str]:
    return {choice.subject: choice.why.id for choice in wanted.choices}


def test_a_pin_with_a_cuda_label_asks_for_the_release(tmp_path: Path) -> None:
    text = "torch==2.0.1+cu118\ntorchvision===0.15.2+cu118\nsomething==0.6+cu113\n"
    wanted = wanted_of(tmp_path, requirements_txt=text, a_py="import torch, torchvision")
    ranges = [make_recipe(wanted, attempt).torch.range for attempt in _attempts(wanted)]
    assert ranges == ["==2.0.1", ">=2.0.1"]
    assert str(loosened(Requirement("something==0.6+cu113"))) == "something>=0.6"


def test_an_address_is_never_looked_up_by_its_name(tmp_path: Path) -> None:
    wanted = wanted_of(
        tmp_path,
        requirements_txt="numpy\nppisp @ git+https://example.org/ppisp@v1\n",
        sub__pyproject_toml='[project]\nname = "x"\ndependencies = ["rich", "y @ https://example.org/y.whl"]\n',
        setup_py="setup(install_requires=['z @ git+https://example.org/z.git', 'h5py'])\n",
    )
    assert set(wanted.pins) == {"numpy", "rich", "h5py"}
    assert left_out(wanted) == dict.fromkeys(("ppisp", "y.whl", "z"), "link-by-hand")


def test_extensions_that_live_in_a_repository_alone_are_named(tmp_path: Path) -> None:
    """Their names on an index may be somebody else's."""
    wanted = wanted_of(
        tmp_path,
        requirements_txt="git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch\nxformers==0.0.18\n",
        train_py="import torch, apex, tinycudann, xformers, flash_attn\n",
    )
    assert left_out(wanted) == {"tinycudann": "link-by-hand", "apex": "link-by-hand"}
    assert {key: str(pin[0]) for key, pin in wanted.pins.items()} == {
        "xformers": "xformers==0.0.18",
        "flash-attn": "flash-attn",
    }
    assert not wanted.extensions


@pytest.mark.parametrize(
    ("line", "ways"),
    [
        ("from pytorch3d.ops import knn_points, knn_gather", ("portable",)),
        ("import pytorch3d.ops.knn as knn", ("portable",)),
        ("from pytorch3d.renderer import TexturesUV", None),
        ("from pytorch3d.ops.knn import knn_points\nfrom pytorch3d.io import load_obj", None),
    ],
)
def test_a_partial_replacement_serves_what_it_holds(
    tmp_path: Path, line: str, ways: tuple[str, ...] | None
) -> None:
    wanted = wanted_of(tmp_path, requirements_txt="pytorch3d\n", a_py=f"import torch\n{line}\n")
    recipe = make_recipe(wanted, next(iter(_attempts(wanted))))
    assert [row.ways for row in recipe.extensions] == ([ways] if ways else [])
    assert left_out(wanted).get("pytorch3d") == (None if ways else "extension-beyond-portable")


def test_what_serves_no_user_is_left_alone(tmp_path: Path) -> None:
    main = "if __name__ == '__main__':\n    pass\n"
    wanted = wanted_of(
        tmp_path,
        requirements_txt="numpy\n",
        **{".ci__docker__requirements_txt": "sentencepiece\n", "tests__requirements_txt": "hypothesis\n"},
        setup_py=main, train_py=main, tests__run_py=main, **{".github__tool_py": main},
    )  # fmt: skip
    assert set(wanted.pins) == {"numpy"} and wanted.entry_points == ("train.py",)


def test_one_range_written_twice_is_tried_once() -> None:
    assert python_ranges(Wanted("x", python=[">=3.10", ">= 3.10"])) == [">=3.10"]
    assert python_ranges(Wanted("x", python=["~=3.10.0"])) == ["~=3.10.0", ">=3.10"]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("My Project (2)", "my-project-2"),
        ("пр оект", "project-c361b7"),
        ("项目", "project-79f326"),
        ("项目二", "project-a4ad60"),
        ("高斯_v2", "v2-6ad563"),
        ("Modèle 2", "modele-2"),
        (os.fsdecode(b"caf\xe9"), "caf-0dabce"),
        ("---", "project"),
        ("Gauß", "gauss"),
    ],
)
def test_an_environment_is_named_after_any_folder(folder: str, name: str, tmp_path: Path) -> None:
    root = tmp_path / "under" / folder
    root.mkdir(parents=True, exist_ok=True)
    wanted = wanted_of(root, a_py="import torch\n")
    assert wanted.name == name
    assert make_recipe(wanted, next(iter(_attempts(wanted)))).name == name


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    wanted = wanted_of(tmp_path, a_py="import torch\n", old_py="print 'Python 2'\n")
    (choice,) = wanted.choices
    assert (choice.subject, choice.why.id) == ("old.py", "file-unread")
    assert "SyntaxError" in str(choice.why.parameters["text"])
