"""FastCSR's checkpoints: nnU-Net's plans, full of NumPy's numbers and arrays, and nothing else may be run."""

from __future__ import annotations

import os
import shutil
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_equal

from bringup.plan.sequence import _patch
from bringup.recipes import load
from bringup.steps.patches import patch_source
from bringup.steps.rewrite import rewrite, undo

# The lines of both scripts that open a checkpoint, as the pinned commit has them.
SCRIPT = """import torch


class Predictor(object):
    def __init__(self, device, model_file):
        self.model_file = model_file

        params = torch.load(self.model_file, map_location=device)
        self.plans = params['plans']
        self.weights = params['state_dict']
"""
NAMES = ("fastcsr_model_infer.py", "brain_finalsurfs_model_infer.py")
STEPS = {row.id: _patch(row) for row in load("deepprep").patches}
PLANS, LOADS = STEPS["fastcsr-plans-of-numpy"], STEPS["safe-torch-load"]


def checkout(folder: Path) -> Path:
    """A source folder with both scripts."""
    place = folder / "deepprep" / "FastCSR"
    place.mkdir(parents=True)
    for name in NAMES:
        (place / name).write_text(SCRIPT)
    return folder


@pytest.fixture(params=[(PLANS, LOADS), (LOADS, PLANS), (PLANS, LOADS, PLANS)], ids=len)
def predictor(request: pytest.FixtureRequest, tmp_path: Path) -> type:
    """The script's class after the recipe's steps, in either order, and again on what is patched."""
    source = checkout(tmp_path / "source")
    for step in request.param:
        patch_source(step, source, {})
    texts = {(source / "deepprep" / "FastCSR" / name).read_text() for name in NAMES}
    (text,) = texts
    assert text.count("safe_globals") == 1 and text.count("weights_only=True") == 1
    module = types.ModuleType("fastcsr")
    exec(compile(text, "fastcsr_model_infer.py", "exec"), module.__dict__)
    found = module.Predictor
    assert isinstance(found, type)
    return found


def plans() -> dict[str, Any]:
    """What nnU-Net 1.7.1 plans: these kinds of values, at these places."""
    statistics = OrderedDict(
        median=np.float32(110), mean=np.float32(109.5), percentile_00_5=np.float64(97.25)
    )
    stage = {
        "batch_size": 2,
        "patch_size": np.array([112, 128, 160]),
        "current_spacing": np.array([1.0, 0.5, 1.0]),
        "do_dummy_2D_data_aug": np.bool_(False),
        "pool_op_kernel_sizes": [[2, 2, 2], [1, 2, 2]],
    }
    return {
        "num_modalities": 2,
        "normalization_schemes": OrderedDict([(0, "nonCT"), (1, "nonCT")]),
        "dataset_properties": {
            "all_sizes": [(160, 184, 200)],
            "intensityproperties": OrderedDict([(0, statistics)]),
            "size_reductions": OrderedDict(case1=np.float64(0.75)),
        },
        "names": np.array(["lh", "rh"]),
        "transpose_forward": [np.int64(0), 1, 2],
        "classes": np.array([-1.0, 0.0, 1.0], dtype=">f4"),
        "plans_per_stage": {0: stage},
    }


def written(folder: Path, numpy_module: str, content: object) -> Path:
    """A checkpoint as NumPy 1 (`numpy.core`) or 2 (`numpy._core`) name their rebuilders in it."""
    torch.save(content, folder / "now.pth")
    path = folder / "model.pth"
    with zipfile.ZipFile(folder / "now.pth") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                for one in (b"cnumpy._core.", b"cnumpy.core."):
                    data = data.replace(one, f"c{numpy_module}.".encode())
                assert f"c{numpy_module}.multiarray\n".encode() in data
            new.writestr(name, data)
    return path


@pytest.mark.parametrize("numpy_module", ["numpy.core", "numpy._core"])
def test_a_checkpoint_opens(predictor: type, numpy_module: str, tmp_path: Path) -> None:
    weights = torch.nn.Conv3d(2, 3, 3).state_dict()
    path = written(tmp_path, numpy_module, {"plans": plans(), "state_dict": weights})
    opened = predictor(torch.device("cpu"), path)
    assert not [name for name in torch.serialization.get_safe_globals() if "numpy" in repr(name)]
    assert_equal(opened.plans, plans())
    assert opened.plans["plans_per_stage"][0]["patch_size"].dtype == np.int64
    assert all(torch.equal(opened.weights[name], value) for name, value in weights.items())


class _Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self._made = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self._made


ATTACKS = {
    "os.mkdir": _Call(os.mkdir, "run-by-the-pickle"),
    "numpy runs text": _Call(np.testing.runstring, "import os; os.mkdir('run-by-the-pickle')", {}),
    "numpy opens a file": _Call(np.save, "run-by-the-pickle", 1),
    "another function of the same module": _Call(np.frombuffer, b"12345678"),
    "objects in an array": np.array([{}, None], dtype=object),
    "records": np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
    "a class": defaultdict(os.getcwd),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_names_anything_else_is_refused(
    predictor: type, attack: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"plans": {**plans(), "more": attack}, "state_dict": {}}, "model.pth")
    with pytest.raises(Exception, match="Weights only load failed"):
        predictor(torch.device("cpu"), tmp_path / "model.pth")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("run-by")]


def test_the_users_own_rewriting_is_left_alone(tmp_path: Path) -> None:
    """A folder that `bringup rewrite` changed is the plan's source; its undo still gives the first bytes."""
    first = checkout(tmp_path / "first")
    assert len([file for file in rewrite(first).files if file.before != file.after]) == 2
    copied = tmp_path / "copied"
    shutil.copytree(first, copied)
    assert len(patch_source(PLANS, copied, {})) == 2
    undo(first)
    assert {path.read_text() for path in first.rglob("*.py")} == {SCRIPT}
