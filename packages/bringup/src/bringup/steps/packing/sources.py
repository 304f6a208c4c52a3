"""Sources of a plan as archives, in the form in which `fetch_source` takes them from a pack."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

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


def _bring_archive(repository: str, commit: str, folder: Path, log: Path, on_line: OnLine) -> Path:
    archive = folder / archive_name(repository, commit)
    if not archive.is_file():
        with tempfile.TemporaryDirectory(prefix=".bringing-", dir=folder) as staging:
            tree = Path(staging) / "tree"
            bring(repository, commit, tree, _ONLINE, log, on_line)
            _archive(tree, archive)
    return archive


def pack_source(step: FetchSource, folder: Path, log: Path, on_line: OnLine) -> list[Path]:
    """Bring a source and its submodules to `folder`; an archive that is there already is kept.

    Raises:
        BringupError: `source-failed`, `download-failed`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = [_bring_archive(step.repository, step.commit, folder, log, on_line)]
    if step.submodules:
        with tempfile.TemporaryDirectory(prefix=".reading-", dir=folder) as staging:
            tree = Path(staging) / "tree"
            unpack(made[0], tree)  # `.gitmodules` says where the submodules come from
            for path, commit in step.submodules.items():
                inside_source(path)
                address = submodule_address(tree, path, step)
                made.append(_bring_archive(address, commit, folder, log, on_line))
    return made
