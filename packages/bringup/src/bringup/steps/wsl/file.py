"""The file `.wslconfig`: its bytes, whatever their encoding, and writing it whole or not at all."""

from __future__ import annotations

import codecs
import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from bringup.errors import BringupError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Configuration:
    """The text as it is, and how it is encoded. A file that does not exist is empty."""

    path: Path
    text: str
    encoding: str
    exists: bool


def read_configuration(path: Path) -> Configuration:
    """Read the file.

    Raises:
        BringupError: `wsl-file-unreadable`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Configuration(path, "", "utf-8", False)
    except OSError as error:
        raise BringupError("wsl-file-unreadable", path=path, text=error.strerror) from error
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        # Comments in the system's own code page: every byte is kept as it is.
        encoding = "latin-1"
        text = content.decode(encoding)
    return Configuration(path, text, encoding, True)


def difference(before: Configuration, after: str) -> str:
    """A unified diff, "" if nothing changes."""
    lines = difflib.unified_diff(
        before.text.lstrip("\ufeff").splitlines(),
        after.lstrip("\ufeff").splitlines(),
        fromfile=str(before.path) if before.exists else "(none)",
        tofile=str(before.path),
        lineterm="",
    )
    return "\n".join(lines)


def write_configuration(before: Configuration, after: str) -> Path | None:
    """Replace the file; the text before is kept beside it. Returns the kept copy's path.

    Raises:
        BringupError: `wsl-file-changed` when somebody wrote it meanwhile, `wsl-file-unwritable`.
    """
    path = before.path
    if read_configuration(path) != before:
        raise BringupError("wsl-file-changed", path=path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    kept = path.with_name(f"{path.name}.before-bringup") if before.exists else None
    try:
        if kept is not None:
            kept.write_bytes(path.read_bytes())
        partial.write_bytes(after.encode(before.encoding))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BringupError("wsl-file-unwritable", path=path, text=error.strerror) from error
    return kept
