"""Binaries below a folder. Names choose what is opened; only links to files lead out of the tree.

Installers that link instead of copying (uv's symlink mode, conda) leave links to files elsewhere: each file
is read once, wherever its links stand. Links to folders are not followed, so loops cannot be walked into.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bringup.binaries.examine import examine, looks_scannable
from bringup.binaries.model import BinaryReport, Unreadable
from bringup.binaries.names import holds_metadata, is_archive, may_be_binary
from bringup.binaries.source import Damaged, open_source
from bringup.binaries.zip_archive import scan_zip

# A hop from header to header waits for a cold disk; several files wait together. More than these few only
# take turns at the interpreter.
_READERS = 4


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
        folders = [entry.path for entry in rows if _sort_in(found, entry)]
        waiting += reversed(folders)
    return found


def _sort_in(found: Survey, entry: os.DirEntry[str]) -> bool:
    """Put an entry where it belongs; true for a folder to walk into."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return not holds_metadata(entry.name)
        found.seen += 1
        if is_archive(entry.name):
            if entry.is_file():
                found.archives.append(entry.path)
        elif may_be_binary(entry.name):
            if entry.is_symlink():
                found.links.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                found.files.append(entry.path)
    except OSError as error:
        found.unreadable.append(Unreadable(entry.path, error.strerror or str(error)))
    return False


def scan_file_at(path: str) -> BinaryReport | Unreadable | None:
    """One file of a folder; None if it is no binary after all."""
    try:
        with open_source(path) as source:
            if looks_scannable(source.read(0, 8)) or path.lower().endswith(".ptx"):
                return examine(source, path)
            if ".so" in path and not source.size:
                return Unreadable(path, "empty")
    except OSError as error:
        return Unreadable(path, error.strerror or str(error))
    except Damaged as error:
        return Unreadable(path, str(error))
    return None


def _each_once(found: Survey) -> Iterator[str]:
    """The files, then the links to files that were not among them."""
    seen: set[tuple[int, int]] = set()
    for path in [*found.files, *found.links]:
        if found.links:
            try:
                facts = Path(path).stat()
            except OSError:
                continue  # A link to nowhere.
            if not stat.S_ISREG(facts.st_mode) or (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
        yield path


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def scan_folder(
    root: str | Path, on_file: Callable[[str], None] | None = None
) -> Iterator[BinaryReport | Unreadable]:
    """Every binary below a folder: those in it, then those behind links, then those in wheels and eggs.

    Args:
        on_file: told each path when its turn comes.
    """
    found = survey(root)
    yield from found.unreadable
    paths = list(_each_once(found))
    pool = ThreadPoolExecutor(_READERS)
    try:
        # The largest first, so that none of them is alone at the end.
        coming = {path: pool.submit(scan_file_at, path) for path in sorted(paths, key=_size, reverse=True)}
        for path in paths:
            if on_file:
                on_file(path)
            row = coming.pop(path).result()
            if row is not None:
                yield row
    finally:
        pool.shutdown(cancel_futures=True)
    for path in found.archives:
        yield from scan_zip(path, on_file=on_file)
