"""Small real environments that are broken in one way each: real shared objects, real metadata files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bringup.facts.gpus import GpuSurvey
from bringup.facts.machine import MachineFacts, read_machine

FIXTURES = Path(__file__).parents[1] / "binaries" / "fixtures"


class Broken:
    """A fresh virtual environment to put things into."""

    def __init__(self, root: Path) -> None:
        venv.create(root, with_pip=False, symlinks=True)
        self.root = root
        self.site = next(root.glob("lib/python3*/site-packages"))

    def distribution(
        self, name: str, version: str, files: dict[str, Path | str] | None = None, metadata: str = ""
    ) -> Path:
        """Install files under a distribution's name: a path is copied, a text is written."""
        record = []
        for inside, content in (files or {}).items():
            path = self.site / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copy(content, path)
            else:
                path.write_text(content)
            record.append(f"{inside},,\n")
        folder = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}"
        )
        (folder / "RECORD").write_text("".join(record))
        return folder

    def torch(
        self, version: str = "2.7.0+cu128", cuda: str | None = "12.8", library: Path | None = None
    ) -> None:
        """A torch as far as its files tell: version.py, and a library with device code if asked for."""
        text = f"__version__ = {version!r}\ndebug = False\ncuda = {cuda!r}\ngit_version = 'abc'\nhip = None\n"
        files: dict[str, Path | str] = {"torch/__init__.py": "", "torch/version.py": text}
        if library:
            files["torch/lib/libtorch_cuda.so"] = library
        self.distribution("torch", version, files)


@pytest.fixture(scope="session")
def machine() -> MachineFacts:
    """This machine, without its GPUs and driver: the tests name their own."""
    return replace(read_machine(), gpus=GpuSurvey((), None, None, None, ()))


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    return Broken(tmp_path / "env")


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Path]:
    """Compile C into a shared object with gcc."""

    def compile_shared(name: str, source: str, *options: str) -> Path:
        file = tmp_path / f"{name}.c"
        file.write_text(source)
        out = tmp_path / f"{name}.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(out), str(file), *options], check=True)
        return out

    return compile_shared


@pytest.fixture(scope="session")
def torch_library_folder() -> Path:
    """`torch/lib` of the environment that runs the tests."""
    for entry in sys.path:
        folder = Path(entry) / "torch" / "lib"
        if (folder / "libc10.so").exists():
            return folder
    raise AssertionError("the tests run in an environment with torch")
