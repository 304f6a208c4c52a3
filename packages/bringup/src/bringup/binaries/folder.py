"""Binaries below a folder. Names choose what is opened; only links to files lead out of the tree.

Installers that link instead of copying (uv's symlink mode, conda) leave links to files elsewhere: each file
is read once, wherever its links stand. Links to folders are not followed, so loops cannot be walked into.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bringup.binaries.examine import examine, looks_scannable
from bringup.binaries.model import BinaryReport, Unreadable
from bringup.binaries.names import holds_metadata, is_archive, may_be_binary
from bringup.binaries.source import Damaged, open_source
from bringup.binaries.zip_archive import scan_zip


@dataclass
class Survey:
    """What a walk met: paths worth opening, and folders that could not be read."""

    files: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    seen: int = 0


def survey(root: str | Path) -> Survey:
    """Walk a folder; only names are looked at."""
    found = Survey()
    waiting = [os.fspath(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                rows = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.unreadable.append(Unreadable(folder, error.strerror or str(error)))
            continue
        metadata = holds_metadata(folder)
        folders = []
        for entry in rows:
            try:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                found.seen += 1
                _sort_in(found, entry, metadata)
            except OSError as error:
                found.unreadable.append(Unreadable(entry.path, error.strerror or str(error)))
        waiting += reversed(folders)
    return found


def _sort_in(found: Survey, entry: os.DirEntry[str], metadata: bool) -> None:
    if metadata:
        return
    if is_archive(entry.name):
        if entry.is_file():
            found.archives.append(entry.path)
    elif may_be_binary(entry.name):
        if entry.is_symlink():
            found.links.append(entry.path)
        elif entry.is_file(follow_symlinks=False):
            found.files.append(entry.path)


def scan_file_at(path: str) -> Iterator[BinaryReport | Unreadable]:
    """One file of a folder: nothing is yielded if it is no binary after all."""
    try:
        with open_source(path) as source:
            if looks_scannable(source.read(0, 8)) or path.lower().endswith(".ptx"):
                yield examine(source, path)
            elif ".so" in path and not source.size:
                yield Unreadable(path, "empty")
    except OSError as error:
        yield Unreadable(path, error.strerror or str(error))
    except Damaged as error:
        yield Unreadable(path, str(error))


def scan_folder(
    root: str | Path, on_file: Callable[[str], None] | None = None
) -> Iterator[BinaryReport | Unreadable]:
    """Every binary below a folder: those in it, then those behind links, then those in wheels and eggs.

    Args:
        on_file: told each path before it is read.
    """
    found = survey(root)
    yield from found.unreadable
    seen: set[tuple[int, int]] = set()
    for path in [*found.files, *found.links]:
        if on_file:
            on_file(path)
        if found.links:
            try:
                facts = Path(path).stat()
            except OSError:
                continue  # A link to nowhere.
            if not stat.S_ISREG(facts.st_mode) or (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
        yield from scan_file_at(path)
    for path in found.archives:
        yield from scan_zip(path, on_file=on_file)
