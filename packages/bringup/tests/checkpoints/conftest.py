"""Fixtures of the checkpoint tests: saving with torch, converting, and putting tensors together again."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bringup.checkpoints import convert


def _load_probe() -> ModuleType:
    file = resources.files("bringup.steps.probes") / "rebuild.py"
    spec = importlib.util.spec_from_file_location("rebuild_probe", str(file))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def probe() -> ModuleType:
    """The probe `rebuild` as a module: its assembler and its bitwise comparison."""
    return _load_probe()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save with torch: `save(value, "zip" | "legacy")`."""

    def write(value: Any, container: str = "zip", name: str = "model.pt") -> Path:
        path = tmp_path / name
        torch.save(value, path, _use_new_zipfile_serialization=container == "zip")
        return path

    return write


@pytest.fixture
def assemble(tmp_path: Path, probe: ModuleType) -> Callable[..., dict[str, torch.Tensor]]:
    """Convert a file and put every tensor together as its description says."""

    def run(path: Path, folder: Path | None = None) -> dict[str, torch.Tensor]:
        done = convert(path, folder or tmp_path / "converted", accept_calls=True)
        document = json.loads(done.description.read_text(encoding="utf-8"))
        files = {name: str(done.description.parent / name) for name in document["files"]}
        assembler = probe.Assembler(torch, {"stored": document["stored"], "files": files})
        return {name: assembler.build(row) for name, row in document["tensors"].items()}

    return run
