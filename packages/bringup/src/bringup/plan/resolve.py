"""Asking a package index what there is and what fits together: pip's own resolver, nothing installed.

A resolver environment per interpreter (pip alone, kept in the cache) answers, so that tags, markers
and the user's pip configuration are those of the environment that will be made.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bringup import state
from bringup.catalog import load as load_catalog
from bringup.errors import BringupError
from bringup.facts.host import read_disk
from bringup.facts.indexes import redact
from bringup.facts.interpreters import Interpreter
from bringup.plan.pip_process import StillTrying, StillWaiting, longest_waiting, run_pip, what_is_asked

_MOST_SOURCE_PACKAGES = 8
# Pure Python. OmegaConf and Hydra want releases of it that are source packages alone: where pip may take only
# wheels, it goes back to their releases of 2020, which want none of it, and calls that an answer.
_SOURCE_ALONE = ("antlr4-python3-runtime",)
# If one of these has a wheel of a release, and the Python that is planned for has none, it is compiled.
_OLDER_PYTHONS = ("3.9", "3.7")
_LONGEST_ANSWER = 240.0  # seconds of trying versions in turn; what fits is found in one
_LONGEST_PLANNING = 480.0
_BARE_ENVIRONMENT = 25_000_000  # bytes that pip takes in a new environment
_OLDEST_PIP = Version("24.0")  # Older ones download whole wheels for a dry run.
# Many mirrors offer no metadata beside their wheels (PEP 658): pip would download each candidate whole, torch
# among them, to read its requirements. With this it asks for the end of the file, where they are.
_METADATA_ALONE = ("--use-feature=fast-deps",)
_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|Temporary failure in name resolution|Max retries exceeded|"
    r"ConnectTimeout|ReadTimeout|Network is unreachable|Connection refused|ProxyError|getaddrinfo failed|"
    r"Connection (?:reset|aborted)|No route to host"
)
_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED|SSLError")
_SPACE = re.compile(r"No space left on device|Errno 28|not enough space on the disk")
_ABSENT = re.compile(r"No matching distribution found for (.+)")
# What follows is said of a package that is needed to build another one, not to install it.
_BUILD = re.compile(
    r"(?:build|backend) dependencies (?:for \S+ )?did not run successfully|Cannot install build dependencies"
)
_CONFLICT = re.compile(r"ResolutionImpossible|conflicting dependencies")
_HASH = re.compile(r"THESE PACKAGES DO NOT MATCH THE HASHES|Hash mismatch|hash mismatch")


_Row = TypeVar("_Row", "Resolved", Version)


@dataclass(frozen=True)
class Resolved:
    """One distribution as the index offers it. `url` may hold credentials: never written down.

    `requires`: requirements of its METADATA; `extras`: those that it offers.
    """

    name: str
    version: str
    sha256: str | None
    url: str
    requires: tuple[str, ...]
    extras: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The file's name at the end of its URL."""
        return self.url.rpartition("/")[2].partition("#")[0].replace("%2B", "+")


def explain_installer_failure(log: str, subject: str) -> BringupError:
    """The error that an installer's output stands for, the most specific reason first."""
    said = [line.strip() for line in log.strip().splitlines() if not line.startswith("WARNING:")]
    tail = " · ".join(said[-3:])
    if _SPACE.search(log):
        return BringupError("no-space", subject=subject, path=state.home())
    if _HASH.search(log):
        return BringupError("wrong-hash", subject=subject, text=tail)
    if _NETWORK.search(log):
        return BringupError("no-network", subject=subject, text=tail)
    if _CERTIFICATE.search(log):
        return BringupError("untrusted-index", subject=subject, text=tail)
    absent = _ABSENT.search(log)
    if absent and _BUILD.search(log):
        needed, text = absent[1].strip(), absent[0].strip()
        return BringupError("installer-failed", subject=subject, text=text, requirement=needed)
    if absent and "(from versions: none)" in log:
        # What pip says both of a name that the index lacks and of an index that does not answer.
        return BringupError("no-versions", requirement=absent[1].strip(), subject=subject)
    if absent:
        return BringupError("no-matching-distribution", requirement=absent[1].strip(), subject=subject)
    if _CONFLICT.search(log):
        telling = ("depends on", "requires", "requested")
        # pip prints them above its own summing up, which names a web page.
        about = [row for row in said if not row.startswith("ERROR")]
        conflict = [row for row in about if any(word in row for word in telling)]
        return BringupError("requirements-conflict", subject=subject, text=" · ".join(conflict[:4]) or tail)
    return BringupError("installer-failed", subject=subject, text=tail or "no output")


def source_option(address: str) -> str:
    """pip's option for a further source: an index, or a page of links (`….html`, as PyG's)."""
    return f"--find-links={address}" if address.endswith(".html") else f"--extra-index-url={address}"


def show_through(environment: Path, folders: Sequence[str], name: str = "overlay") -> None:
    """Let the packages in these folders be seen from a virtual environment (its own come first).

    A `.pth` file and not `--system-site-packages`: that shows an interpreter's base, not the virtual
    environment whose interpreter was given.
    """
    sites = [*environment.glob("lib/python3*/site-packages"), *environment.glob("Lib/site-packages")]
    if folders:
        (sites[0] / f"_bringup_{name}.pth").write_text("\n".join(folders) + "\n", encoding="utf-8")


class Resolver:
    """pip of one interpreter, in an environment of its own.

    Args:
        interpreter: whose tags and version decide what fits.
        find_links: folders of wheels to look into as well.
        offline: look nowhere else than in these folders.
        overlay: folders whose packages count as installed.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        find_links: Sequence[Path] = (),
        offline: bool = False,
        overlay: Sequence[str] = (),
    ) -> None:
        self.interpreter = interpreter
        self._overlay = tuple(overlay)
        self._find_links = tuple(find_links)
        self._offline = offline
        self._ready = False
        self._from_source: set[str] = set()  # what has no wheel, and can be had so
        self._unbuildable: set[str] = set()
        self._without_wheel: set[str] = set()  # requirements of which the index has source packages alone
        self._ends = time.monotonic() + _LONGEST_PLANNING
        self._minutes = longest_waiting()
        self._waits_until = time.monotonic() + 60 * self._minutes
        self._answers: dict[tuple[object, ...], list[Any] | BringupError] = {}
        version = interpreter.version.replace(".", "_")
        mark = zlib.crc32("\n".join([interpreter.path, *overlay]).encode())
        self._folder = state.cache() / "resolvers" / f"python-{version}-{mark:08x}"

    @property
    def _python(self) -> Path:
        return self._folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def _source_options(self, index: str | None) -> list[str]:
        options = [f"--find-links={folder}" for folder in self._find_links]
        if self._offline:
            options.append("--no-index")
        elif index:
            options.append(source_option(index))
        return options

    def _remembered(self, question: tuple[object, ...], ask: Callable[[], list[_Row]]) -> list[_Row]:
        """The answer to a question; the rounds of one planning ask many of them again."""
        if question not in self._answers:
            try:
                self._answers[question] = ask()
            except BringupError as error:
                self._answers[question] = error
        known = self._answers[question]
        if isinstance(known, BringupError):
            raise known
        return list(known)

    def _pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """pip's answer. The folder is held meanwhile, and made again where `bringup clean` took it away."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._folder}.lock"):
            self._make()
            return self._ask(*arguments)

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self._python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
        limit = min(_LONGEST_ANSWER, max(1.0, self._ends - time.monotonic()))
        try:
            return run_pip(command, limit, self._waits_until - time.monotonic())
        except StillWaiting as waiting:
            subject = redact(waiting.last) or ", ".join(what_is_asked(arguments))
            raise BringupError("index-too-slow", minutes=f"{self._minutes:g}", subject=subject) from waiting
        except StillTrying as trying:
            # pip names what it went back to last; which of them is at fault only a person can say.
            named = ", ".join(trying.names[:6])
            raise BringupError("no-end-of-resolving", names=named, text=named) from trying

    def _pip_version(self) -> Version | None:
        try:
            answer = self._ask("--version")
            return Version(answer.stdout.split()[1]) if answer.returncode == 0 else None
        except (OSError, IndexError, InvalidVersion):
            return None

    def prepare(self) -> None:
        """Make the resolver environment if it is not there; safe with several processes.

        Raises:
            BringupError: the environment cannot be made, or no pip that is new enough is reachable.
        """
        self._pip("--version")

    def _make(self) -> None:
        if self._ready and self._python.exists():
            return
        version = self._pip_version()
        if version is None:  # There is none, or its making was ended midway.
            command = [self.interpreter.path, "-m", "venv", "--clear", str(self._folder)]
            made = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if made.returncode:
                raise explain_environment_failure(made.stdout + made.stderr, self.interpreter)
            show_through(self._folder, self._overlay)
            version = self._pip_version()
        if version is None or version < _OLDEST_PIP:
            options = self._source_options(None)
            upgraded = self._ask("install", "--quiet", "--upgrade", *options, f"pip>={_OLDEST_PIP}")
            if upgraded.returncode and not self._offline:
                raise explain_installer_failure(upgraded.stdout + upgraded.stderr, "pip")
        self._ready = True

    def versions(self, name: str, index: str | None = None, only_index: str | None = None) -> list[Version]:
        """All versions (with local labels) that fit the interpreter, newest first; [] if there are none.

        Args:
            index: looked at beside the user's own; `only_index` in their place.

        Raises:
            BringupError: the index cannot be reached.
        """
        question = ("versions", name, index, only_index)
        return self._remembered(question, lambda: self._versions(name, index, only_index))

    def _versions(self, name: str, index: str | None, only_index: str | None) -> list[Version]:
        options = self._source_options(index)
        if only_index and not self._offline:
            options = [f"--index-url={only_index}", "--no-cache-dir"]
        answer = self._pip("index", "versions", *options, name)
        host = urlsplit(only_index).hostname if only_index else None
        if host and host in answer.stderr and _NETWORK.search(answer.stderr):
            # Folders of wheels in the user's configuration may answer although the index did not.
            raise explain_installer_failure(answer.stderr, name)
        for line in answer.stdout.splitlines():
            if line.startswith("Available versions:"):
                listed = (text.strip() for text in line.partition(":")[2].split(","))
                return sorted((Version(text) for text in listed if text), reverse=True)
        log = answer.stdout + answer.stderr
        if _NETWORK.search(log) or _CERTIFICATE.search(log):
            raise explain_installer_failure(log, name)
        return []

    def resolve(
        self,
        requirements: Iterable[str],
        index: str | None = None,
        with_dependencies: bool = True,
        find_links: Sequence[Path] = (),
    ) -> list[Resolved]:
        """What an installation of these requirements into an empty environment would take.

        `find_links`: folders to look into for this question alone.

        Wheels; a distribution that has none for this Python (antlr4 for OmegaConf) as its source package.

        Raises:
            BringupError: nothing matches, requirements contradict each other, the index is unreachable.
        """
        wanted = tuple(requirements)
        question = (wanted, index, with_dependencies, tuple(find_links))
        return self._remembered(
            question, lambda: self._from_wheels_first(wanted, index, with_dependencies, find_links)
        )

    def _from_wheels_first(
        self, wanted: Sequence[str], index: str | None, with_dependencies: bool, find_links: Sequence[Path]
    ) -> list[Resolved]:
        named = {_name_of(text): text for text in wanted}
        from_source = sorted(self._from_source - named.keys())
        from_source += [name for name, text in named.items() if text in self._without_wheel]
        lacking: BringupError | None = None
        while True:
            try:
                rows = self._resolve(wanted, from_source, index, with_dependencies, find_links)
            except BringupError as error:  # noqa: PERF203 - one try a round is the point
                name = _lacks_a_wheel(error)
                in_build = error.id == "installer-failed"
                if lacking and in_build and (name is None or name in named or name in from_source):
                    self._unbuildable.add(from_source[-1])
                    self._without_wheel.discard(named.get(from_source[-1], ""))
                    raise lacking from error  # Its source package cannot be built here: as good as none.
                if lacking and name in from_source and name == _lacks_a_wheel(lacking) and not in_build:
                    self._without_wheel.discard(named.get(name, ""))
                    raise lacking from error  # It has no source package either: other releases have wheels.
                if name in from_source or name in self._unbuildable or (in_build and name in named):
                    raise
                if name in named and not in_build and self._is_compiled(named[name]):
                    raise  # What was compiled years ago for another Python seldom compiles for this one.
                self._from_source |= set(from_source) - named.keys()
                if name is None or len(from_source) >= _MOST_SOURCE_PACKAGES:
                    raise
                if in_build:
                    from_source.insert(0, name)  # The last is still the one that is built, and may not be.
                    continue
                from_source.append(name)
                if name in named:
                    self._without_wheel.add(named[name])
                lacking = error
            else:
                self._from_source |= set(from_source) - named.keys()
                return rows

    def _is_compiled(self, requirement: str) -> bool:
        """Whether an older Python has a wheel of what this one has none of."""
        return any(self._has_wheel_for(python, requirement) for python in _OLDER_PYTHONS)

    def _has_wheel_for(self, python: str, requirement: str) -> bool:
        with tempfile.TemporaryDirectory(prefix="bringup-") as folder:
            options = ["--dry-run", "--no-deps", "--only-binary=:all:", f"--python-version={python}"]
            options += [f"--target={folder}", *self._source_options(None)]
            return self._pip("install", *_METADATA_ALONE, *options, requirement).returncode == 0

    @property
    def is_late(self) -> bool:
        """Whether planning has taken as long as it may."""
        return time.monotonic() > self._ends

    def has_wheel(self, requirement: str) -> bool:
        """Whether the index has a wheel that fits this requirement, whatever it needs itself."""

        def ask() -> list[Resolved]:
            return self._resolve([requirement], (), None, False, ())

        try:
            return bool(self._remembered(("wheel", requirement), ask))
        except BringupError as error:
            return error.id not in ("no-versions", "no-matching-distribution")

    def _resolve(
        self,
        wanted: Sequence[str],
        from_source: Sequence[str],
        index: str | None,
        with_dependencies: bool,
        find_links: Sequence[Path],
    ) -> list[Resolved]:
        with tempfile.TemporaryDirectory(prefix="bringup-") as folder:
            report = Path(folder) / "report.json"
            # Not --quiet: it would leave out what a conflict is caused by.
            options = ["--dry-run", "--only-binary=:all:"]
            # Without an index a folder may hold the wheel that was built of it.
            alone = () if self._offline else _SOURCE_ALONE
            options += [f"--no-binary={name}" for name in dict.fromkeys((*alone, *from_source))]
            options += [f"--find-links={folder}" for folder in find_links]
            if not self._overlay:
                options.append("--ignore-installed")
            if not with_dependencies:
                options.append("--no-deps")
            options += [f"--report={report}", *self._source_options(index)]
            answer = self._pip("install", *_METADATA_ALONE, *options, *wanted)
            if answer.returncode == 2 and "invalid choice" in answer.stderr:  # A pip that has it no longer.
                answer = self._pip("install", *options, *wanted)
            if answer.returncode:
                subject = ", ".join(wanted[:3])
                raise explain_installer_failure(answer.stdout + answer.stderr, subject)
            rows = json.loads(report.read_text(encoding="utf-8"))["install"]
        return sorted((_resolved(row) for row in rows), key=lambda row: row.name)


def _name_of(requirement: str) -> str:
    return canonicalize_name(re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0])


def _lacks_a_wheel(error: BringupError) -> str | None:
    """The distribution that an index may have as a source package alone, wanted itself or for a build."""
    if "requirement" not in error.parameters:
        return None
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(error.parameters["requirement"]))
    name = canonicalize_name(match[0]) if match else None
    if name in ("torch", "torchvision", "torchaudio") or (name and load_catalog().extension(name)):
        return None  # Compiled against torch: its source package cannot even be read without one.
    return name


def _resolved(row: dict[str, object]) -> Resolved:
    information = row["download_info"]
    described = row["metadata"]
    assert isinstance(information, dict)
    assert isinstance(described, dict)
    hashes = information.get("archive_info", {}).get("hashes", {})
    return Resolved(
        name=canonicalize_name(described["name"]),
        version=described["version"],
        sha256=hashes.get("sha256"),
        url=information["url"],
        requires=tuple(described.get("requires_dist", ())),
        extras=tuple(described.get("provides_extra", ())),
    )


def explain_environment_failure(log: str, interpreter: Interpreter, free: int | None = None) -> BringupError:
    """Why `python -m venv` did not make an environment.

    `free`: bytes left on the disk, that of the state folder where None.
    venv says only that its call of ensurepip failed, be the cause a full disk or a missing module.
    """
    free = read_disk(state.home()).free if free is None else free
    if _SPACE.search(log) or ("ensurepip" in log and free < _BARE_ENVIRONMENT):
        return BringupError("no-space", subject="venv", path=state.home())
    if "ensurepip" in log or "No module named venv" in log:
        return BringupError("no-ensurepip", python=interpreter.path, version=interpreter.version)
    tail = " · ".join(log.strip().splitlines()[-3:])
    return BringupError("environment-failed", python=interpreter.path, text=tail or "no output")
