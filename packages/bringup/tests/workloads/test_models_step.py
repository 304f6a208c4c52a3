"""The step that converts DeepPrep's ten models: planned from the recipe, in both profiles."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from bringup.plan.sequence import Given, Parts, _checkpoints
from bringup.plan.steps import ConvertCheckpoints
from bringup.recipes import load


@pytest.mark.parametrize(("profile", "layout"), [("portable", "safetensors"), ("compiled", "module")])
def test_the_models_step_is_planned(profile: str, layout: str, tmp_path: Path) -> None:
    parts = Parts(load("deepprep"), profile, *[cast(object, None)] * 6)  # type: ignore[arg-type]
    (step,) = _checkpoints(parts, Given(models=tmp_path))
    assert step.class_path == "gatunet_model:GatUNet" and step.layout == layout
    assert list(_checkpoints(parts, Given())) == []
    again = ConvertCheckpoints.model_validate(step.model_dump())  # as a plan file's reader does
    assert again == step


@pytest.mark.parametrize("wrong", ["gatunet_model", "gatunet_model:", ":GatUNet", "a b:C", "os:system('x')"])
def test_what_is_no_class_is_refused(wrong: str, tmp_path: Path) -> None:
    parts = Parts(load("deepprep"), "portable", *[cast(object, None)] * 6)  # type: ignore[arg-type]
    (step,) = _checkpoints(parts, Given(models=tmp_path))
    with pytest.raises(ValueError, match="no class of a module"):
        ConvertCheckpoints.model_validate({**step.model_dump(), "class_path": wrong})
