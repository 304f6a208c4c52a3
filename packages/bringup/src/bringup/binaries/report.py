"""One file, archive or tree: what it carries. The door of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from bringup.binaries.examine import examine
from bringup.binaries.folder import scan_folder
from bringup.binaries.image_archive import scan_image
from bringup.binaries.model import BinaryReport, CudaRuntime, Unreadable
from bringup.binaries.source import Damaged, open_source
from bringup.binaries.zip_archive import scan_zip

__all__ = ["BinaryReport", "CudaRuntime", "Kind", "Unreadable", "kind_of", "scan_file", "scan_path"]

Kind = Literal["file", "wheel", "folder", "environment", "image", "missing"]


def kind_of(path: Path) -> Kind:
    """What a path is, by its first bytes and, of a folder, by what stands in it."""
    if path.is_dir():
        # A virtual environment has the one, conda's the other.
        marks = (path / "pyvenv.cfg", path / "conda-meta")
        return "environment" if any(mark.exists() for mark in marks) else "folder"
    if not path.exists():
        return "missing"
    try:
        with open_source(path) as source:
            head = source.read(0, 512)
    except (OSError, Damaged):
        return "file"
    if head[:4] in (b"PK\3\4", b"PK\5\6") or path.suffix in (".whl", ".egg"):
        return "wheel"
    packed = head[:2] == b"\x1f\x8b" or head[:4] == b"\x28\xb5\x2f\xfd"
    if packed or head[257:262] == b"ustar" or path.suffix == ".tar":
        return "image"
    return "file"


def scan_file(path: Path) -> BinaryReport | Unreadable:
    """Read one shared object, Windows library, object file, static library, cubin, fat binary or PTX text."""
    try:
        with open_source(path) as source:
            return examine(source, str(path))
    except OSError as error:
        return Unreadable(str(path), error.strerror or str(error))
    except Damaged as error:
        return Unreadable(str(path), str(error))


def scan_path(
    path: Path, on_file: Callable[[str], None] | None = None
) -> Iterator[BinaryReport | Unreadable]:
    """Every binary at, below or inside `path`: a file, a wheel, a folder, an environment, an image archive.

    Args:
        on_file: told each name before it is read (for a progress display).
    """
    kind = kind_of(path)
    if kind in ("folder", "environment"):
        yield from scan_folder(path, on_file)
    elif kind == "wheel":
        yield from scan_zip(path, on_file=on_file)
    elif kind == "image":
        yield from scan_image(path, on_file)
    else:
        yield scan_file(path)
