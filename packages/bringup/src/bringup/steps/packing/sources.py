"""Sources of a plan as archives, in the form in which `fetch_source` takes them from a pack."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bringup.errors import BringupError
from bringup.plan.folders import left_out
from bringup.plan.steps import FetchSource
from bringup.steps.sources import (
    OnLine,
    Supplies,
    archive_name,
    bring,
    inside_source,
    submodule_address,
    unpack,
)

_ONLINE = Supplies()


def _archive(tree: Path, archive: Path) -> None:
    """Pack a tree under one top folder; the same tree gives the same names, owners and times."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 0
        return member

    partial = archive.with_name(f"{archive.name}.partial")
    with tarfile.open(partial, "w:gz", compresslevel=6) as tar:
        tar.add(tree, archive.name.removesuffix(".tar.gz"), filter=plain)
    partial.replace(archive)


def _copy_of(local: Path, commit: str, tree: Path, log: Path, on_line: OnLine) -> None:
    """A local copy: of a git repository that commit exactly, of any other folder what lies there."""
    if (local / ".git").exists() or (local / "objects").is_dir():
        bring(str(local), commit, tree, _ONLINE, log, on_line)
    else:
        shutil.copytree(local, tree, ignore=left_out, symlinks=True)


def _bring_archive(
    repository: str, commit: str, local: Path | None, folder: Path, log: Path, on_line: OnLine
) -> Path:
    archive = folder / archive_name(repository, commit)
    if not archive.is_file():
        with tempfile.TemporaryDirectory(prefix=".bringing-", dir=folder) as staging:
            tree = Path(staging) / "tree"
            if local is None:
                bring(repository, commit, tree, _ONLINE, log, on_line)
            else:
                _copy_of(local, commit, tree, log, on_line)
            _archive(tree, archive)
    return archive


def pack_source(
    step: FetchSource, folder: Path, log: Path, on_line: OnLine, local: Path | None = None
) -> list[Path]:
    """Bring a source and its submodules to `folder`; an archive that is there already is kept.

    Args:
        local: a copy that the user has: a git repository with that commit, or a folder taken as it is.

    Raises:
        BringupError: `source-failed`, `download-failed`, `no-source`.
    """
    if local is not None and not local.is_dir():
        raise BringupError("no-source", exit_code=2, path=local)
    folder.mkdir(parents=True, exist_ok=True)
    made = [_bring_archive(step.repository, step.commit, local, folder, log, on_line)]
    if step.submodules:
        with tempfile.TemporaryDirectory(prefix=".reading-", dir=folder) as staging:
            tree = Path(staging) / "tree"
            unpack(made[0], tree)  # `.gitmodules` says where the submodules come from
            for path, commit in step.submodules.items():
                inside = inside_source(path)
                there = local / inside if local and any(_files_of(local / inside)) else None
                address = submodule_address(tree, path, step)
                made.append(_bring_archive(address, commit, there, folder, log, on_line))
    return made


def _files_of(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())
