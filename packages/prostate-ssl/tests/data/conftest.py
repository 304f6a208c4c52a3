"""A phantom data set, made once, copied where a test changes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prostate_ssl.data.phantom import PhantomSettings, write_phantoms


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small cases with masks and labels; not to be changed."""
    root = tmp_path_factory.mktemp("phantoms")
    write_phantoms(root, 6, PhantomSettings(size=96, slices=10))
    return root


@pytest.fixture
def copied(phantoms: Path, tmp_path: Path) -> Callable[[int], Path]:
    """Make a data folder of the first n cases that a test may damage."""

    def make(count: int) -> Path:
        root = tmp_path / "data"
        root.mkdir()
        for folder in sorted(phantoms.glob("phantom_*"))[:count]:
            shutil.copytree(folder, root / folder.name)
        return root

    return make
