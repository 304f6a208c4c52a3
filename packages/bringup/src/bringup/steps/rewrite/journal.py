"""What a rewriting changed, kept in the state folder, so that it can be taken back byte by byte."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bringup import state
from bringup.errors import BringupError


@dataclass(frozen=True)
class ByteEdit:
    """Bytes `old` at offset `start` of the file as it was are replaced by `new`."""

    start: int
    old: bytes
    new: bytes


@dataclass(frozen=True)
class Undone:
    """What `undo` did: files put back, and files that somebody has changed since."""

    restored: tuple[Path, ...]
    changed: tuple[Path, ...]


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def splice(data: bytes, edits: Sequence[ByteEdit]) -> bytes:
    """Apply edits that are sorted and do not overlap."""
    parts, at = [], 0
    for edit in edits:
        assert data[edit.start : edit.start + len(edit.old)] == edit.old
        parts += [data[at : edit.start], edit.new]
        at = edit.start + len(edit.old)
    return b"".join([*parts, data[at:]])


def unsplice(data: bytes, edits: Sequence[ByteEdit]) -> bytes:
    """The bytes before `splice`."""
    back, shift = [], 0
    for edit in edits:
        back.append(ByteEdit(edit.start + shift, edit.new, edit.old))
        shift += len(edit.new) - len(edit.old)
    return splice(data, back)


def replace_bytes(path: Path, data: bytes) -> None:
    """Put new contents in the place of a file, whole or not at all; its permissions stay."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        shutil.copymode(path, partial)
        with contextlib.suppress(OSError, AttributeError):
            facts = path.stat()
            os.chown(partial, facts.st_uid, facts.st_gid)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _folder(root: Path) -> Path:
    return state.home() / "rewrites" / digest(str(root).encode())[:16]


def record(root: Path, changes: Sequence[tuple[Path, bytes, Sequence[ByteEdit]]]) -> None:
    """Write the journal before any file is touched: (file, its bytes, edits)."""
    files = []
    for path, data, edits in changes:
        rows = [
            {
                "start": e.start,
                "old": base64.b64encode(e.old).decode(),
                "new": base64.b64encode(e.new).decode(),
            }
            for e in edits
        ]
        row = {"path": str(path), "before": digest(data), "after": digest(splice(data, edits)), "edits": rows}
        files.append(row)
    folder = _folder(root)
    number = max((int(file.stem) for file in folder.glob("[0-9]*.json")), default=0) + 1
    document = {"schema": "bringup/rewrite-journal/1", "root": str(root), "time": time.time(), "files": files}
    state.write_atomically(folder / f"{number:06}.json", json.dumps(document, indent=1))


def _edits(row: dict[str, Any]) -> list[ByteEdit]:
    decode = base64.b64decode
    return [ByteEdit(int(e["start"]), decode(e["old"]), decode(e["new"])) for e in row["edits"]]


def undo(root: Path) -> Undone:
    """Take the last rewriting of this folder back. A file that was changed since is left as it is.

    Raises:
        BringupError: `nothing-to-undo`.
    """
    root = root.resolve()
    entries = sorted(_folder(root).glob("[0-9]*.json"))
    if not entries:
        raise BringupError("nothing-to-undo", path=root)
    document = json.loads(entries[-1].read_text(encoding="utf-8"))
    restored, changed = [], []
    for row in document["files"]:
        path = Path(row["path"])
        data = path.read_bytes() if path.is_file() else b""
        if digest(data) == row["before"]:
            continue  # A rewriting that was killed half-way never reached this file.
        if digest(data) != row["after"]:
            changed.append(path)
            continue
        replace_bytes(path, unsplice(data, _edits(row)))
        restored.append(path)
    entries[-1].unlink()
    return Undone(tuple(restored), tuple(changed))
