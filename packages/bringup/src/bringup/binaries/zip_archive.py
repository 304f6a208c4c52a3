"""Wheels and eggs: binaries inside a zip, read without unpacking it.

A stored member is read where it stands. A deflated one is inflated into memory or, above 16 MB, into a
temporary file that is gone afterwards, since an ELF's section table stands at its end. Members that lie
about their size, that inflate beyond reason or that overlap are refused and named.

Source: PKWARE APPNOTE 6.3, «End of central directory record»; PEP 427.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bringup.binaries.examine import examine, looks_scannable
from bringup.binaries.model import BinaryReport, Unreadable
from bringup.binaries.names import may_be_binary
from bringup.binaries.source import Damaged, FileSource, SliceSource, Source, open_source, spilled

_CHUNK = 1 << 20
# zipfile keeps about 700 bytes for each of its records of at least 46.
_LARGEST_DIRECTORY = 6 << 20
_LARGEST_MEMBER = 8 << 30
# Deflate reaches 1032:1 on zeros; compiled code seldom 20:1.
_STEEPEST, _SMALL = 200, 32 << 20
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError),
    *(struct.error, UnicodeError, LookupError, OverflowError),
)


def _check_directory(source: Source) -> None:
    """Refuse a central directory that would fill the memory, before zipfile reads it.

    Raises:
        Damaged: there is none, or it is too large.
    """
    length = min(source.size, 65_557)
    tail = source.read(source.size - length, length)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + 22 > len(tail):
        raise Damaged("no zip archive: it is cut off or something else")
    (size,) = struct.unpack_from("<I", tail, at + 12)
    wide = tail.rfind(b"PK\6\6", 0, at)
    if wide >= 0 and wide + 48 <= len(tail):
        (size,) = struct.unpack_from("<Q", tail, wide + 40)
    if size > _LARGEST_DIRECTORY:
        raise Damaged(f"its central directory claims {size} bytes")


@contextmanager
def open_zip(path: str | Path) -> Iterator[tuple[zipfile.ZipFile, FileSource]]:
    """The archive, checked.

    Raises:
        Damaged, OSError: it cannot be read.
    """
    with open_source(path) as source:
        _check_directory(source)
        try:
            archive = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise Damaged(f"no zip archive: {error}") from error
        with archive:
            packed = sum(info.compress_size for info in archive.infolist())
            if packed > source.size:
                raise Damaged("its members overlap: more bytes are announced than the archive has")
            yield archive, source


def _check_member(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 0x1:
        raise Damaged("encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Damaged(f"compressed with method {info.compress_type}, which wheels do not use")
    if info.file_size > _LARGEST_MEMBER:
        raise Damaged(f"claims {info.file_size} bytes")
    if info.file_size > max(_SMALL, _STEEPEST * info.compress_size):
        raise Damaged(f"claims to inflate from {info.compress_size} to {info.file_size} bytes")


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _stored_at(source: Source, info: zipfile.ZipInfo) -> int:
    header = source.read(info.header_offset, 30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise Damaged("its local header is damaged")
    name, extra = struct.unpack_from("<HH", header, 26)
    return info.header_offset + 30 + int(name) + int(extra)


@contextmanager
def open_member(archive: zipfile.ZipFile, whole: Source, info: zipfile.ZipInfo) -> Iterator[Source]:
    """One member as a source.

    Raises:
        Damaged: it lies about its size, is encrypted, or is not what zip says.
    """
    _check_member(info)
    if info.compress_type == zipfile.ZIP_STORED:
        if info.compress_size != info.file_size:
            raise Damaged("a stored member with two sizes")
        yield SliceSource(whole, _stored_at(whole, info), info.file_size)
        return
    with archive.open(info) as stream, spilled(_chunks(stream), info.file_size) as source:
        yield source


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_member(info)
    with archive.open(info) as stream:
        return stream.read(8)


def scan_zip(
    path: str | Path, shown: str | None = None, on_file: Callable[[str], None] | None = None
) -> Iterator[BinaryReport | Unreadable]:
    """Every binary in a wheel or egg, in the order of its names.

    Args:
        shown: how the archive is called in the reports.
        on_file: told the name of each member before it is read.
    """
    shown = shown or str(path)
    try:
        with open_zip(path) as (archive, source):
            for info in sorted(archive.infolist(), key=lambda row: row.filename):
                if info.is_dir() or not may_be_binary(info.filename.rsplit("/", 1)[-1]):
                    continue
                if on_file:
                    on_file(info.filename)
                yield from _scan_member(archive, source, info, shown)
    except (Damaged, *_DAMAGE) as error:
        yield Unreadable(shown, str(error))


def _scan_member(
    archive: zipfile.ZipFile, source: Source, info: zipfile.ZipInfo, shown: str
) -> Iterator[BinaryReport | Unreadable]:
    path = f"{shown}/{info.filename}"
    try:
        if not info.filename.lower().endswith(".ptx") and not looks_scannable(_head(archive, info)):
            return
        with open_member(archive, source, info) as member:
            yield examine(member, path)
    except (Damaged, *_DAMAGE) as error:
        yield Unreadable(path, str(error) or type(error).__name__)
