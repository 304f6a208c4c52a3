"""One thing that may go, its size, and its deletion. Links are never followed and never listed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal[
    "cache",
    "half-finished",
    "superseded",
    "log",
    "partial",
    "dockerfile",
    "folder",
    "runfile",
    "script",
    "image",
]


@dataclass(frozen=True)
class Item:
    """A file or folder (`path`), or a container image (`image`, with its `engine`).

    Attributes:
        origin: "bringup" for our own, "manual" for the manual way's.
        bytes: what deleting frees; files with other names elsewhere (hard links) are not counted.
        identity: device and inode when it was listed: what is there later may be another thing.
    """

    kind: Kind
    origin: Literal["bringup", "manual"]
    bytes: int
    path: Path | None = None
    image: str | None = None
    engine: str | None = None
    identity: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """What a person is shown."""
        return self.image or str(self.path)


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the entry itself; None if it is not there."""
    try:
        facts = path.lstat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _files(folder: Path) -> Iterator[os.stat_result]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            facts = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        yield facts
        if stat.S_ISDIR(facts.st_mode):
            yield from _files(Path(entry.path))


def size_of(path: Path) -> int:
    """Bytes on disk below a path. A file with several names counts once all of them are below it."""
    try:
        facts = path.lstat()
    except OSError:
        return 0
    if not stat.S_ISDIR(facts.st_mode):
        return _blocks(facts) if facts.st_nlink <= 1 else 0
    total = 0
    shared: dict[tuple[int, int], int] = {}
    for row in _files(path):
        if stat.S_ISDIR(row.st_mode) or row.st_nlink <= 1:
            total += _blocks(row)
            continue
        key = (row.st_dev, row.st_ino)
        shared[key] = shared.get(key, 0) + 1
        if shared[key] == row.st_nlink:
            total += _blocks(row)
    return total


def _blocks(facts: os.stat_result) -> int:
    # Windows has no blocks; a sparse file takes less than its length.
    return int(getattr(facts, "st_blocks", -(-facts.st_size // 512)) * 512)


def item_of(path: Path, kind: Kind, origin: Literal["bringup", "manual"]) -> Item | None:
    """The item for a path; None for a link or for nothing."""
    if path.is_symlink() or not path.exists():
        return None
    return Item(kind, origin, size_of(path), path=path, identity=identity(path))


def delete(item: Item) -> str | None:
    """Delete a file or folder. Returns why not, None when it is gone.

    What was put in its place since the listing stays; links inside a folder go, what they lead to stays.
    """
    path = item.path
    assert path is not None
    if identity(path) != item.identity:
        return "changed"
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        return error.strerror or str(error)
    return None
