"""Python interpreters on this machine: on PATH, in conda's and uv's own places."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_QUESTION = (
    "import importlib.util as u, json, platform, sys, sysconfig;"
    "print(json.dumps([platform.python_version(), platform.python_implementation(), sys.executable,"
    " sys.maxsize > 2**32, bool(u.find_spec('ensurepip')), bool(u.find_spec('venv')),"
    " sysconfig.get_platform()]))"
)
_ASKED_AT_ONCE = 4


@dataclass(frozen=True)
class Interpreter:
    """A Python that answered.

    Attributes:
        version: "3.11.7".
        makes_environments: it has `venv` and `ensurepip`; Debian's python3 without python3-venv does not.
        platform: `sysconfig.get_platform()`, for example "linux-x86_64".
    """

    path: str
    version: str
    implementation: str
    makes_environments: bool
    platform: str

    @property
    def minor(self) -> tuple[int, int]:
        """(3, 11) of "3.11.7"."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def markers(self) -> dict[str, str]:
        """What PEP 508's markers are judged by where they ask about Python; this host tells the rest."""
        minor = ".".join(map(str, self.minor))
        return {
            "python_version": minor,
            "python_full_version": self.version,
            "implementation_version": self.version,
            "implementation_name": "cpython",
            "platform_python_implementation": self.implementation,
        }


def ask(path: Path | str) -> Interpreter | None:
    """Ask one interpreter about itself; None if it does not answer as CPython of 64 bits."""
    try:
        answer = subprocess.run(
            [str(path), "-I", "-c", _QUESTION], capture_output=True, text=True, timeout=20, check=True
        ).stdout
        version, implementation, executable, wide, ensurepip, venv, platform = json.loads(answer)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if implementation != "CPython" or not wide:
        return None
    return Interpreter(executable or str(path), version, implementation, ensurepip and venv, platform)


def _candidates() -> Iterator[Path]:
    yield Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    names = ["python3", "python", *(f"python3.{minor}" for minor in range(20, 7, -1))]
    for name in names:
        found = shutil.which(name)
        # pyenv's shims are slow scripts in front of the interpreters below.
        if found and (Path(found).parent != pyenv / "shims" or name == "python3"):
            yield Path(found)
    conda = os.environ.get("CONDA_PREFIX")
    if conda:
        yield Path(conda) / ("python.exe" if os.name == "nt" else "bin/python")
    uv_home = os.environ.get("UV_PYTHON_INSTALL_DIR")
    uv = Path(uv_home) if uv_home else Path.home() / ".local/share/uv/python"
    if uv.is_dir():
        yield from sorted(uv.glob("cpython-*/bin/python3.*[0-9]"), reverse=True)
    yield from sorted(pyenv.glob("versions/*/bin/python"), reverse=True)


def base_of(interpreter: Path) -> Path:
    """The interpreter that a virtual environment was made from: new environments stand on that one."""
    if interpreter == Path(sys.executable) and sys.prefix != sys.base_prefix:
        base = getattr(sys, "_base_executable", None)
        if base:
            return Path(base)
    return interpreter


def find_interpreters() -> tuple[Interpreter, ...]:
    """All that answer, each once, this process's own base interpreter first."""
    bases: dict[str, Path] = {}
    for base in map(base_of, _candidates()):
        bases.setdefault(os.path.realpath(base), base)
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        answers = list(pool.map(ask, bases.values()))
    found: dict[str, Interpreter] = {}
    for answer in filter(None, answers):
        found.setdefault(str(Path(answer.path).resolve()), answer)
    return tuple(found.values())
