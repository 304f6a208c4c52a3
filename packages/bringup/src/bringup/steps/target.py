"""The only room that touches an environment: runs its programs and probes, knows where things lie in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from bringup.errors import BringupError


class Target(Protocol):
    """An environment whose Python runs torch, so that bringup need not."""

    @property
    def python(self) -> Path:
        """Its interpreter."""

    @property
    def root(self) -> Path:
        """Its folder."""

    def program(self, name: str) -> Path:
        """A console script of the environment."""

    def variables(self) -> dict[str, str]:
        """The process environment in which its programs run."""

    def probe(self, name: str, arguments: Mapping[str, Any], timeout: float = 600) -> dict[str, Any]:
        """Run a probe and return its answer; a crash is an answer too."""


def _describe_crash(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


class VirtualEnvironment:
    """A virtual environment (or any folder with the same layout, as conda's)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        return self._root

    @property
    def _scripts(self) -> Path:
        return self._root / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> Path:
        name = "python.exe" if os.name == "nt" else "python"
        inside = self._scripts / name
        # conda on Windows keeps its interpreter in the environment's own folder.
        return inside if inside.exists() or os.name != "nt" else self._root / name

    def program(self, name: str) -> Path:
        return self._scripts / (f"{name}.exe" if os.name == "nt" else name)

    def variables(self) -> dict[str, str]:
        """As if activated; what would leak other packages in is taken out."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        kept["VIRTUAL_ENV"] = str(self._root)
        kept["PATH"] = os.pathsep.join([str(self._scripts), kept.get("PATH", os.defpath)])
        kept["PYTHONUNBUFFERED"] = "1"
        kept["PYTHONUTF8"] = "1"
        return kept

    def probe(self, name: str, arguments: Mapping[str, Any], timeout: float = 600) -> dict[str, Any]:
        """Run `probes/<name>.py` with this environment's Python, isolated (`-I`).

        Returns:
            The probe's answer: at least `ok` (bool). A crash gives `ok: False` and `crash`, its signal.
        """
        source = resources.files("bringup.steps.probes") / f"{name}.py"
        with resources.as_file(source) as file, tempfile.TemporaryDirectory(prefix="bringup-") as folder:
            answer = Path(folder) / "answer.json"
            command = [str(self.python), "-I", str(file), json.dumps(dict(arguments)), str(answer)]
            try:
                ran = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    env=self.variables(),
                    cwd=folder,
                    timeout=timeout,
                )
            except subprocess.TimeoutExpired:
                return {"ok": False, "crash": f"no answer within {timeout:.0f} s", "output": ""}
            except OSError as error:
                raise BringupError("broken-environment", path=self._root, text=error) from error
            output = (ran.stdout + ran.stderr)[-4000:]
            if not answer.exists():
                return {"ok": False, "crash": _describe_crash(ran.returncode), "output": output}
            document: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
            return document | {"output": output}


def console_command(target: Target, command: Sequence[str]) -> list[str]:
    """A command line whose first word is looked for in the environment first; a script is given to Python."""
    program = target.program(command[0])
    if command[0] == "python":
        return [str(target.python), *command[1:]]
    if command[0].endswith(".py"):
        return [str(target.python), *command]
    return [str(program) if program.exists() else command[0], *command[1:]]
