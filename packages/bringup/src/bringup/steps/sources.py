"""The code of a workload or an extension, at its commit: by git, as an archive, from a pack, or given."""

from __future__ import annotations

import configparser
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bringup.errors import BringupError
from bringup.plan.folders import content_of, left_out
from bringup.plan.steps import FetchSource
from bringup.steps.downloads import download
from bringup.steps.processes import run_logged

OnLine = Callable[[str], None]


@dataclass(frozen=True)
class Supplies:
    """Where sources may come from.

    Attributes:
        offline: nothing is asked of the network.
        pack: a folder that `bringup fetch` made (`sources/`, `wheels/`, `weights/`).
    """

    offline: bool = False
    pack: Path | None = None


def archive_name(repository: str, commit: str) -> str:
    """The name of a source in a pack: `TripoSR-d26e33181947….tar.gz`."""
    return f"{_name_of(repository)}-{commit}.tar.gz"


def _name_of(repository: str) -> str:
    return repository.rstrip("/").removesuffix(".git").rpartition("/")[2]


def archive_address(repository: str, commit: str) -> str | None:
    """Where a forge serves a commit as an archive; None where that is not known."""
    base = repository.rstrip("/").removesuffix(".git")
    if base.startswith("https://github.com/"):
        return f"{base}/archive/{commit}.tar.gz"
    if base.startswith("https://gitlab."):
        return f"{base}/-/archive/{commit}/{_name_of(repository)}-{commit}.tar.gz"
    return None


def fetch_source(step: FetchSource, folder: Path, supplies: Supplies, log: Path, on_line: OnLine) -> None:
    """Bring the source to `folder`, which exists only when all of it is there.

    Raises:
        BringupError: `source-changed`, `source-offline`, `source-failed`, `download-failed`.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if step.local:
        _copy(step, partial)
    elif step.recursive:
        _bring_all(step, partial, supplies, log, on_line)
    else:
        bring(step.repository, step.commit, partial, supplies, log, on_line)
        for path, commit in step.submodules.items():
            inside = partial / inside_source(path)
            shutil.rmtree(inside, ignore_errors=True)
            bring(submodule_address(partial, path, step), commit, inside, supplies, log, on_line)
    partial.replace(folder)


def inside_source(path: str) -> PurePosixPath:
    """A path that stays below the source."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise BringupError("plan-invalid", exit_code=2, path=path, place="submodules", text="leads outside")
    return parts


def _copy(step: FetchSource, partial: Path) -> None:
    assert step.local is not None
    given = Path(step.local)
    if not given.is_dir():
        raise BringupError("no-source", exit_code=2, path=given)
    if step.content is not None and content_of(given) != step.content:
        raise BringupError("source-changed", path=given)
    shutil.copytree(given, partial, ignore=left_out, symlinks=True)


def submodule_address(folder: Path, path: str, step: FetchSource) -> str:
    """The address of a submodule, from `.gitmodules`; relative ones lie beside the repository."""
    parser = configparser.ConfigParser(strict=False)
    try:
        parser.read_string(
            "\n".join(line.strip() for line in (folder / ".gitmodules").read_text().splitlines())
        )
    except (OSError, configparser.Error, UnicodeDecodeError) as error:
        raise BringupError("source-failed", repository=step.repository, text=error) from error
    for section in parser.sections():
        if parser.get(section, "path", fallback="") == path:
            address = parser.get(section, "url")
            if not address.startswith("."):
                return address
            base = step.repository.rstrip("/").split("/")
            ups = address.split("/").count("..")
            return "/".join(
                [*base[: len(base) - ups], *(part for part in address.split("/") if part not in (".", ".."))]
            )
    raise BringupError("source-failed", repository=step.repository, text=f"no submodule {path}")


def bring(repository: str, commit: str, into: Path, supplies: Supplies, log: Path, on_line: OnLine) -> None:
    """One commit without its history and submodules: from the pack, by git, or as a forge's archive.

    Raises:
        BringupError: `source-offline`, `source-failed`, `download-failed`.
    """
    packed = supplies.pack / "sources" / archive_name(repository, commit) if supplies.pack else None
    if packed and packed.is_file():
        return unpack(packed, into)
    if supplies.offline:
        raise BringupError("source-offline", repository=repository, commit=commit[:12])
    on_line(f"Downloading {_name_of(repository)} {commit[:12]}")
    if shutil.which("git"):
        return _clone(repository, commit, into, log, on_line)
    address = archive_address(repository, commit)
    if address is None:
        raise BringupError("source-failed", repository=repository, text="git is not installed")
    archive = into.with_name(f".{into.name}.tar.gz")
    download([address], archive, on_line=on_line)
    try:
        return unpack(archive, into)
    finally:
        archive.unlink(missing_ok=True)


def _bring_all(step: FetchSource, into: Path, supplies: Supplies, log: Path, on_line: OnLine) -> None:
    """A source with all its submodules, and the history's end that its build asks for: by git alone."""
    if supplies.offline:
        raise BringupError("source-offline", repository=step.repository, commit=step.commit[:12])
    if shutil.which("git") is None:
        raise BringupError("no-git")
    _clone(step.repository, step.commit, into, log, on_line, recursive=True)


def _clone(
    repository: str, commit: str, into: Path, log: Path, on_line: OnLine, recursive: bool = False
) -> None:
    """One commit without its history. git's own configuration (`insteadOf`, proxies) holds."""
    into.mkdir(parents=True)
    git = ["git", "-C", str(into), "-c", "advice.detachedHead=false"]
    environment = dict(os.environ) | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    commands = [
        [*git, "init", "--quiet"],
        [*git, "fetch", "--progress", "--depth=1", repository, commit],
        [*git, "checkout", "--quiet", "FETCH_HEAD"],
    ]
    if recursive:
        commands.append([*git, "submodule", "update", "--init", "--recursive", "--depth=1", "--progress"])
    for command in commands:
        outcome = run_logged(command, log, environment=environment, on_line=on_line)
        if outcome.code:
            shutil.rmtree(into, ignore_errors=True)
            tail = " · ".join(outcome.tail.strip().splitlines()[-2:])
            raise BringupError("source-failed", repository=repository, text=tail or "git failed")
    if not recursive:
        shutil.rmtree(into / ".git", ignore_errors=True)


def unpack(archive: Path, into: Path) -> None:
    """Unpack a forge's archive, whose one top folder becomes `into`. Members that lead outside are refused.

    Raises:
        BringupError: `source-failed`.
    """
    staging = into.with_name(f".{into.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        with tarfile.open(archive) as tar:
            if not hasattr(tarfile, "data_filter"):
                raise BringupError(
                    "source-failed", repository=archive.name, text="Python ≥ 3.10.12 is needed"
                )
            tar.extractall(staging, filter="data")
        top = list(staging.iterdir())
        (top[0] if len(top) == 1 and top[0].is_dir() else staging).replace(into)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BringupError("source-failed", repository=archive.name, text=error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
