"""The pip that serves bringup itself: installing into folders and into environments that have none."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from bringup import state
from bringup.facts.interpreters import Interpreter, ask, base_of
from bringup.plan.resolve import explain_environment_failure, explain_installer_failure
from bringup.steps.installers import OnLine
from bringup.steps.processes import run_logged


@dataclass(frozen=True)
class Source:
    """Where packages come from: the user's index, and folders of wheels beside it or (offline) alone."""

    find_links: tuple[Path, ...] = ()
    offline: bool = False

    @property
    def options(self) -> list[str]:
        """For pip's command line."""
        links = [f"--find-links={folder.expanduser().absolute()}" for folder in self.find_links]
        return [*links, "--no-index"] if self.offline else links


def pip_command() -> list[str]:
    """`python -m pip` of this interpreter, or of a small environment where it has none (uv, Debian)."""
    words = ["-m", "pip", "--disable-pip-version-check", "--no-input"]
    if importlib.util.find_spec("pip"):
        return [sys.executable, *words]
    folder = state.cache() / "pip"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not python.exists():
            base = base_of(Path(sys.executable))
            command = [str(base), "-m", "venv", "--clear", str(folder)]
            made = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if made.returncode:
                interpreter = ask(base) or Interpreter(str(base), "?", "CPython", False, "")
                raise explain_environment_failure(made.stdout + made.stderr, interpreter)
    return [str(python), *words]


def pip_environment() -> dict[str, str]:
    """pip's messages are read by programs: they must be English."""
    dropped = ("PYTHONPATH", "PYTHONHOME")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PIP_RETRIES": "2"}


def pip_for(python: Path) -> list[str] | None:
    """pip that works on another interpreter's environment: ours, else (a Python too old for it) its own."""
    words = ["-m", "pip", "--disable-pip-version-check", "--no-input"]
    for command in ([*pip_command(), "--python", str(python)], [str(python), *words]):
        ran = subprocess.run([*command, "--version"], capture_output=True, env=pip_environment())
        if ran.returncode == 0:
            return command
    return None


def pip_install(
    command: Sequence[str],
    arguments: Sequence[str],
    source: Source,
    subject: str,
    log: Path,
    on_line: OnLine | None = None,
) -> None:
    """`pip install` with the user's configuration.

    Args:
        command: as `pip_command` or `pip_for` give it.

    Raises:
        BringupError: as `explain_installer_failure` reads the log.
    """
    words = [*command, "install", *source.options, *arguments]
    outcome = run_logged(words, log, environment=pip_environment(), on_line=on_line)
    if outcome.code:
        raise explain_installer_failure(outcome.tail, subject)
