"""Resuming Gaussian splatting: its checkpoints hold a number of NumPy's, and nothing else may be run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bringup.plan.sequence import _patch
from bringup.recipes import load
from bringup.steps.patches import patch_source

# The lines of train.py that resume, as every release has them.
TRAIN = """import torch

def resume(checkpoint):
    if checkpoint:
        (model_params, first_iter) = torch.load(checkpoint)
        return model_params, first_iter
"""
SAID_ALREADY = TRAIN.replace("(checkpoint)\n", "(checkpoint, weights_only=False)\n", 1)


@pytest.fixture(params=[TRAIN, SAID_ALREADY], ids=["2023", "weights_only=False"])
def resume(request: pytest.FixtureRequest, tmp_path: Path):  # type: ignore[no-untyped-def]
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(
        request.param.replace("resume(checkpoint, weights_only=False)", "resume(checkpoint)")
    )
    for row in load("gaussian-splatting").patches:
        if not row.of:
            patch_source(_patch(row), source, {})
    text = (source / "train.py").read_text()
    assert "safe_globals" in text and text.count("weights_only=True") == 1
    names: dict[str, object] = {}
    exec(compile(text, "train.py", "exec"), names)
    return names["resume"]


@pytest.mark.parametrize(
    "extent", [np.float64(3.5), np.float32(3.5), 3.5], ids=["float64", "float32", "plain"]
)
def test_a_checkpoint_is_resumed(resume, extent: object, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    layer = torch.nn.Linear(2, 2)
    state = torch.optim.Adam(layer.parameters()).state_dict()
    torch.save(((3, layer.weight, state, extent), 7000), tmp_path / "chkpnt7000.pth")
    (degree, weight, _state, found), iteration = resume(str(tmp_path / "chkpnt7000.pth"))
    assert (degree, float(found), iteration) == (3, 3.5, 7000) and torch.equal(weight, layer.weight)


class _Call:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("run-by-the-pickle",)


def test_a_checkpoint_that_runs_something_is_refused(  # type: ignore[no-untyped-def]
    resume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(((3, _Call()), 7000), tmp_path / "chkpnt7000.pth")
    with pytest.raises(Exception, match="Weights only load failed"):
        resume(str(tmp_path / "chkpnt7000.pth"))
    assert not (tmp_path / "run-by-the-pickle").exists()
