"""The compiler from wheels, wheels from the index, and the compiled kernels that stand in the tree."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from .toolkit import Toolkit, cache_folder, install


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of small compiled kernels (see make_fixtures.py)."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def toolkit() -> Toolkit:
    """nvcc 13.0 from the package index."""
    return install()


@pytest.fixture(scope="session")
def wheel() -> Callable[..., Path]:
    """Fetch a wheel by requirement and platform; kept in the cache folder between runs."""

    def fetch(requirement: str, *flags: str) -> Path:
        folder = cache_folder() / "wheels" / "_".join([requirement, *flags]).replace("==", "-")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            found = list(folder.glob("*.whl"))
            if not found:
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
                subprocess.run([*pip, *flags, "-d", str(folder), requirement], check=True)
                found = list(folder.glob("*.whl"))
        return found[0]

    return fetch
