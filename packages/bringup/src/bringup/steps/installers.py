"""pip and uv behind one protocol: install exactly these locked packages, no resolution, hashes checked."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bringup.errors import BringupError
from bringup.facts.indexes import IndexFacts, pip_sources_for_uv
from bringup.plan.model import LockedPackage
from bringup.plan.resolve import explain_installer_failure, source_option
from bringup.steps.processes import run_logged
from bringup.steps.target import Target

OnLine = Callable[[str], None]


class Installer(Protocol):
    """What installs into a target."""

    name: str

    def install(
        self, target: Target, packages: Sequence[LockedPackage], index: str | None, log: Path, on_line: OnLine
    ) -> None:
        """Install locked packages of one index (None: the user's own)."""

    def install_path(self, target: Target, path: Path, log: Path, on_line: OnLine) -> None:
        """Install a source folder or wheel without its requirements."""


def requirement_lines(packages: Sequence[LockedPackage]) -> str:
    """A requirements file in pip's hash-checking form."""
    lines = []
    for package in packages:
        line = f"{package.name}=={package.version}"
        lines.append(f"{line} --hash=sha256:{package.sha256}" if package.sha256 else line)
    return "\n".join(lines) + "\n"


class _CommandInstaller(ABC):
    """What the two have in common: a command line, a requirements file, the reading of failures."""

    name: str
    variables: Mapping[str, str] = {}

    def __init__(self, find_links: Sequence[Path] = (), offline: bool = False) -> None:
        self._sources = [f"--find-links={folder}" for folder in find_links]
        self._offline = offline
        if offline:
            self._sources.append("--no-index")

    @abstractmethod
    def _command(self, target: Target) -> list[str]:
        """The words before `install`."""

    def _run(
        self, target: Target, arguments: Sequence[str], subject: str, log: Path, on_line: OnLine
    ) -> None:
        environment = target.variables() | {"LC_ALL": "C.UTF-8", **self.variables}
        outcome = run_logged(
            [*self._command(target), *arguments], log, environment=environment, on_line=on_line
        )
        if outcome.code:
            raise explain_installer_failure(outcome.tail, subject)

    def install(
        self, target: Target, packages: Sequence[LockedPackage], index: str | None, log: Path, on_line: OnLine
    ) -> None:
        if not packages:
            return
        requirements = log.with_suffix(".requirements.txt")
        requirements.write_text(requirement_lines(packages), encoding="utf-8")
        hashes = ["--require-hashes"] if all(package.sha256 for package in packages) else []
        extra = [source_option(index)] if index and not self._offline else []
        arguments = ["install", "--no-deps", *hashes, *extra, *self._sources, "-r", str(requirements)]
        subject = ", ".join(package.name for package in packages[:3])
        self._run(target, arguments, subject, log, on_line)

    def install_path(self, target: Target, path: Path, log: Path, on_line: OnLine) -> None:
        self._run(target, ["install", "--no-deps", *self._sources, str(path)], path.name, log, on_line)


class Pip(_CommandInstaller):
    """The environment's own pip: follows pip.conf and PIP_* as they are."""

    name = "pip"

    def _command(self, target: Target) -> list[str]:
        return [str(target.python), "-m", "pip", "--disable-pip-version-check", "--no-input"]


class Uv(_CommandInstaller):
    """uv, told which environment to install into, and pip's sources where it has none of its own."""

    name = "uv"

    def __init__(
        self,
        program: str,
        find_links: Sequence[Path] = (),
        offline: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(find_links, offline)
        self._program = program
        self.variables = variables or {}

    def _command(self, target: Target) -> list[str]:
        return [self._program, "pip"]

    def _run(
        self, target: Target, arguments: Sequence[str], subject: str, log: Path, on_line: OnLine
    ) -> None:
        # uv would take the first index that knows a name; the lock's hashes make any index as good.
        first, *rest = arguments
        options = [first, "--python", str(target.python), "--index-strategy=unsafe-best-match", *rest]
        super()._run(target, options, subject, log, on_line)


def choose_installer(
    facts: IndexFacts, wish: str | None = None, find_links: Sequence[Path] = (), offline: bool = False
) -> Installer:
    """uv where it is present, unless pip is configured and uv is not (uv reads none of pip's files).

    Raises:
        BringupError: `no-uv` when uv is asked for and not there; `unknown-installer`.
    """
    wish = wish or os.environ.get("BRINGUP_INSTALLER")
    if wish not in (None, "pip", "uv"):
        raise BringupError("unknown-installer", exit_code=2, given=wish)
    if wish == "uv" and not facts.uv:
        raise BringupError("no-uv", exit_code=2)
    prefer_uv = facts.uv and (facts.uv_configured or not facts.pip_configured)
    if wish == "uv" or (wish is None and prefer_uv):
        assert facts.uv is not None
        # The plan was made with pip's sources: its files are there.
        variables = {} if facts.uv_configured else pip_sources_for_uv()
        return Uv(facts.uv, find_links, offline, variables)
    return Pip(find_links, offline)


_COLLECTING = re.compile(
    r"(?:Collecting|Downloading|Using cached|Processing|Installing collected packages:) +(\S+)"
)


def progress_text(line: str) -> str | None:
    """What to show of an installer's line while it works; None for the rest."""
    match = _COLLECTING.search(line)
    if not match:
        return None
    words = line.strip().split()
    return " ".join([words[0], words[1].rpartition("/")[2].partition("#")[0], *words[2:4]])[:70]
