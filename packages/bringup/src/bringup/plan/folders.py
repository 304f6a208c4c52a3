"""What counts of a source folder that the user gives: its files, without history and environments."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

left_out = shutil.ignore_patterns(".git", "__pycache__", ".venv", "venv", "node_modules")


def content_of(folder: Path) -> str:
    """SHA-256 over the names and bytes of a given source folder, without its history."""
    digest = hashlib.sha256()
    for place, names, files in os.walk(folder):
        ignored = left_out(place, [*names, *files])
        names[:] = sorted(name for name in names if name not in ignored)
        for name in sorted(set(files) - ignored):
            file = Path(place) / name
            digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
            if file.is_file():
                with file.open("rb") as stream:
                    while piece := stream.read(1 << 20):
                        digest.update(piece)
    return digest.hexdigest()
