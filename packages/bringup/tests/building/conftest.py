"""One home of bringup's for all tests here: the toolkit is fetched once, and so is each build environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from filelock import FileLock


def cache_folder() -> Path:
    """Where downloads of the tests stay between runs: BRINGUP_TEST_CACHE, else the user's cache."""
    chosen = os.environ.get("BRINGUP_TEST_CACHE")
    folder = Path(chosen) if chosen else Path(platformdirs.user_cache_dir("bringup-tests"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Answer:
    """What a command line gave. `document`: of `--json`."""

    code: int
    output: str
    errors: str

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.output)
        return document

    @property
    def first(self) -> dict[str, Any]:
        """The first build of the document."""
        row: dict[str, Any] = self.document["builds"][0]
        return row


Bringup = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder without builds; the toolkit and the build environments are those of all tests."""
    folder = tmp_path / "home"
    for inner in ("toolkits", "cache/build-environments"):
        shared = cache_folder() / inner
        shared.mkdir(parents=True, exist_ok=True)
        (folder / inner).parent.mkdir(parents=True, exist_ok=True)
        (folder / inner).symlink_to(shared, target_is_directory=True)
    monkeypatch.setenv("BRINGUP_HOME", str(folder))
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS", "NVCC_APPEND_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def bringup(home: Path) -> Bringup:
    """Run the command line in a process of its own."""

    def run(*arguments: str | Path, prefix: tuple[str, ...] = (), **variables: str) -> Answer:
        environment = os.environ | {"BRINGUP_LANG": "en"} | variables
        program = [*prefix, sys.executable, "-c", "from bringup.cli.main import main; main()"]
        command = [*program, *map(str, arguments)]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return Answer(ran.returncode, ran.stdout, ran.stderr)

    return run


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing in it."""
    folder = cache_folder() / f"empty-environment-{sys.version_info.major}.{sys.version_info.minor}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "pyvenv.cfg").exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder
