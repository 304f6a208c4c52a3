"""The fat binary: a run of containers, each a run of entries. Headers are hopped over; nothing is unpacked.

The layout is not published; it was measured on files of nvcc 11 to 13 (see docs/fatbin.md).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from bringup.binaries.architectures import Architecture
from bringup.binaries.compatibility import Images, Ptx

MAGIC = 0xBA55ED50
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQ")
_SMALLEST_ENTRY_HEADER = 64
_ARCHITECTURE_SPECIFIC = 0x100000
_FAMILY_SPECIFIC = 0x200000

Buffer = bytes | bytearray | memoryview | mmap.mmap


class EntryKind(IntEnum):
    """What an entry holds."""

    PTX = 1
    MACHINE_CODE = 2
    LTO_IR = 8


@dataclass(frozen=True)
class FatbinEntry:
    """One image. `kind` is a number that `EntryKind` may not know; `isa` is PTX's (major, minor)."""

    kind: int
    architecture: Architecture
    size: int
    flags: int
    isa: tuple[int, int] | None


@dataclass(frozen=True)
class FatbinContainer:
    """One translation unit's (or link unit's) images. `truncated`: it ends beyond the section."""

    offset: int
    entries: tuple[FatbinEntry, ...]
    truncated: bool = False

    @property
    def images(self) -> Images:
        """What the container offers to the loader (LTO input is no code yet)."""
        code = [e.architecture for e in self.entries if e.kind == EntryKind.MACHINE_CODE]
        ptx = [Ptx(e.architecture, e.isa) for e in self.entries if e.kind == EntryKind.PTX]
        return Images(tuple(code), tuple(ptx))


def _suffix(flags: int) -> str:
    if flags & _ARCHITECTURE_SPECIFIC:
        return "a"
    return "f" if flags & _FAMILY_SPECIFIC else ""


def _entry(data: Buffer, at: int, kind: int, size: int) -> FatbinEntry:
    (number,) = struct.unpack_from("<I", data, at + 28)
    (flags,) = struct.unpack_from("<Q", data, at + 40)
    isa = None
    if kind == EntryKind.PTX:
        minor, major = struct.unpack_from("<HH", data, at + 24)
        isa = (major, minor)
    return FatbinEntry(kind, Architecture(number, _suffix(flags)), size, flags, isa)


def _entries(data: Buffer, start: int, end: int) -> Iterator[FatbinEntry]:
    """Hop over entry headers; stops at the first that makes no sense."""
    at = start
    while at + _SMALLEST_ENTRY_HEADER <= end:
        kind, _version, header, payload = _ENTRY.unpack_from(data, at)
        if header < _SMALLEST_ENTRY_HEADER or kind == 0 or payload > end - at:
            return
        yield _entry(data, at, kind, payload)
        at += header + payload


def read_containers(data: Buffer, start: int = 0, end: int | None = None) -> Iterator[FatbinContainer]:
    """Containers in `data[start:end]`, for example of a `.nv_fatbin` section.

    Never raises for what the bytes say: a container that claims more than is there is cut off and marked.
    """
    end = len(data) if end is None else min(end, len(data))
    at = start
    while at + _CONTAINER.size <= end:
        magic, _version, header, size = _CONTAINER.unpack_from(data, at)
        if magic != MAGIC or header < _CONTAINER.size:
            following = _next_magic(data, at + 8, end)
            if following is None:
                return
            at = following
            continue
        inside = at + header
        stop = min(inside + size, end)
        yield FatbinContainer(at, tuple(_entries(data, inside, stop)), truncated=inside + size > end)
        at = inside + size
        at += -(at - start) % 8


def _next_magic(data: Buffer, start: int, end: int) -> int | None:
    """The next 8-byte boundary (counted from the buffer's beginning) that bears the magic."""
    at = start
    while at < end:
        if isinstance(data, memoryview):
            found = data[at:end].tobytes().find(_MAGIC_BYTES)
            found = found + at if found >= 0 else -1
        else:
            found = data.find(_MAGIC_BYTES, at, end)
        if found < 0:
            return None
        if found % 8 == start % 8:
            return found
        at = found + 1
    return None
