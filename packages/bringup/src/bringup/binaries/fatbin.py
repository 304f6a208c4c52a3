"""The fat binary: a run of containers, each a run of entries. Headers are hopped over; nothing is unpacked.

The layout is not published; it was measured on files of nvcc 11 to 13 and on published wheels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from bringup.binaries import empty_code
from bringup.binaries.architectures import Architecture
from bringup.binaries.compatibility import Images, Ptx
from bringup.binaries.source import Damaged, Source, WindowedSource

MAGIC = 0xBA55ED50
MAGIC_BYTES = struct.pack("<I", MAGIC)
_CONTAINER = struct.Struct("<IHHQ")
# kind, version, header size, payload size; PTX ISA minor and major, architecture; flags.
_ENTRY = struct.Struct("<HHIQ8xHHI8xQ16x")
_SMALLEST_ENTRY_HEADER = 64
_LARGEST_ENTRY_HEADER = 4096
_ARCHITECTURE_SPECIFIC = 0x100000
_FAMILY_SPECIFIC = 0x200000
_SPECIFIC = _ARCHITECTURE_SPECIFIC | _FAMILY_SPECIFIC
_WINDOW = 1 << 20
_NEAR = 256
# Linkers pad to a page at most; a sparse file could claim terabytes of nothing.
_WIDEST_GAP = 64 << 20
# The largest libraries (cuBLASLt, cuDNN) have six thousand; a hostile file would fill the memory.
MOST_ENTRIES = 100_000


class EntryKind(IntEnum):
    """What an entry holds."""

    PTX = 1
    MACHINE_CODE = 2
    LTO_IR = 8


class Compression(IntEnum):
    """How a payload is packed: bits of an entry's flags."""

    LZ4 = 0x2000
    ZSTD = 0x8000


class FatbinEntry(NamedTuple):
    """One image. `kind` is a number that `EntryKind` may not know; `isa` is PTX's (major, minor)."""

    kind: int
    architecture: Architecture
    size: int
    flags: int
    isa: tuple[int, int] | None

    @property
    def compression(self) -> Compression | None:
        """How the payload is packed, None where it stands as it is."""
        return next((way for way in Compression if self.flags & way), None)


@dataclass(frozen=True, slots=True)
class FatbinContainer:
    """One translation unit's (or link unit's) images.

    Attributes:
        offset: where it begins, in the source that was read.
        damage: what is wrong with it, None where nothing is; what stands before the damage is kept.
        without_function: a translation unit without any kernel left it (see `empty_code`).
    """

    offset: int
    entries: tuple[FatbinEntry, ...]
    damage: str | None = None
    without_function: bool = False

    @property
    def images(self) -> Images:
        """What the container offers to the loader (LTO input is no code yet)."""
        if self.without_function:
            return _images((), ())
        code = [e.architecture for e in self.entries if e.kind == EntryKind.MACHINE_CODE]
        ptx = [Ptx(e.architecture, e.isa) for e in self.entries if e.kind == EntryKind.PTX]
        return _images(tuple(dict.fromkeys(code)), tuple(dict.fromkeys(ptx)))


@lru_cache(maxsize=4096)
def _images(code: tuple[Architecture, ...], ptx: tuple[Ptx, ...]) -> Images:
    """Thousands of containers offer the same: one object for them."""
    return Images(code, ptx)


@lru_cache(maxsize=1024)
def _architecture(number: int, specific: int) -> Architecture:
    suffix = "a" if specific & _ARCHITECTURE_SPECIFIC else "f" if specific & _FAMILY_SPECIFIC else ""
    return Architecture(number, suffix)


def _container(
    source: Source, at: int, inside: int, end: int, size: int, room: int, first: bytes
) -> FatbinContainer:
    """Hop over the entry headers in `[inside, end)`; `size` is what the container claims to hold.

    Args:
        first: the first entry's header where it was read with the container's.
    """
    damage = f"cut off: its container at byte {at} claims {size} bytes" if size > end - inside else None
    entries: list[FatbinEntry] = []
    largest: FatbinEntry | None = None
    place = 0
    here = inside
    while here + _SMALLEST_ENTRY_HEADER <= end:
        header = first if here == inside and first else source.read(here, _SMALLEST_ENTRY_HEADER)
        if len(header) < _SMALLEST_ENTRY_HEADER:
            break
        kind, _version, length, payload, minor, major, number, flags = _ENTRY.unpack(header)
        plausible = kind and _SMALLEST_ENTRY_HEADER <= length <= _LARGEST_ENTRY_HEADER and 10 <= number < 1000
        if not plausible:
            # Padding between the last entry and the end is all zeros.
            damage = damage or (f"an entry at byte {here} makes no sense" if any(header) else None)
            break
        if len(entries) >= room:
            raise Damaged(f"more than {MOST_ENTRIES} entries in its fat binaries")
        if length + payload > end - here:
            damage = damage or f"cut off: its entry at byte {here} claims {payload} bytes"
            break
        architecture = _architecture(number, flags & _SPECIFIC)
        isa = (major, minor) if kind == EntryKind.PTX else None
        entry = FatbinEntry(kind, architecture, payload, flags, isa)
        entries.append(entry)
        if kind == EntryKind.MACHINE_CODE and (largest is None or payload > largest.size):
            largest, place = entry, here + length
        here += length + payload
    # A kernel for some architectures only makes their images larger: the largest decides.
    empty = largest is not None and _without_function(source, largest, place)
    return FatbinContainer(at, tuple(entries), damage, empty)


def _without_function(source: Source, entry: FatbinEntry, place: int) -> bool:
    """Whether machine code has no function. Only small payloads are looked into."""
    if not empty_code.may_be_empty(entry.size, entry.flags):
        return False
    return empty_code.holds_no_function(source.read(place, entry.size), entry.flags)


def read_containers(
    source: Source, start: int = 0, size: int | None = None, room: int = MOST_ENTRIES
) -> Iterator[FatbinContainer]:
    """Containers in a part of a source, for example of a `.nv_fatbin` section.

    A container that claims more than is there is cut off and marked.

    Args:
        room: how many containers and entries to take at most.

    Raises:
        Damaged: there are more.
    """
    end = source.size if size is None else min(start + size, source.size)
    source = WindowedSource(source)
    at = start
    while at + _CONTAINER.size <= end:
        header = source.read(at, _CONTAINER.size + _SMALLEST_ENTRY_HEADER)
        if len(header) < _CONTAINER.size:
            return
        magic, _version, length, claimed = _CONTAINER.unpack_from(header)
        if magic != MAGIC or length < _CONTAINER.size:
            following = _next_magic(source, at, start, end)
            if following is None:
                return
            at = following
            continue
        inside = at + length
        first = header[_CONTAINER.size :] if length == _CONTAINER.size else b""
        container = _container(source, at, inside, min(inside + claimed, end), claimed, room, first)
        room -= 1 + len(container.entries)
        if room < 0:
            raise Damaged(f"more than {MOST_ENTRIES} containers in its fat binaries")
        yield container
        at = inside + claimed
        at += -(at - start) % 8


def read_sections(source: Source, sections: Iterable[tuple[int, int]]) -> tuple[FatbinContainer, ...]:
    """Containers of several parts of a file, each an offset and a size in bytes.

    Raises:
        Damaged: the parts lie over one another, or hold too many entries together.
    """
    found: list[FatbinContainer] = []
    room, behind = MOST_ENTRIES, 0
    for offset, size in sorted(sections):
        if offset < behind:
            raise Damaged("its fat binary sections lie over one another")
        behind = offset + size
        for container in read_containers(source, offset, size, room):
            room -= 1 + len(container.entries)
            found.append(container)
    return tuple(found)


def damaged_sections(source: Source, sections: Iterable[tuple[str, int, int]]) -> str | None:
    """What to say of sections (name, offset, size in bytes) that do not begin with a container; None: all do.

    Linkers put the first container at the very beginning: it is missing where a section was zeroed,
    overwritten or reaches beyond the file, also if containers further on are left.
    """
    broken: dict[str, int] = {}
    for name, offset, size in sections:
        if size and source.read(offset, min(size, len(MAGIC_BYTES))) != MAGIC_BYTES:
            broken.setdefault(name, size)
    if not broken:
        return None
    told = ", ".join(f"{name} ({size} bytes)" for name, size in broken.items())
    return f"no fat binary at the beginning of {told}: zeroed or overwritten"


def _next_magic(source: Source, here: int, start: int, end: int) -> int | None:
    """The next 8-byte boundary after `here`, counted from `start`, that bears the magic; within 64 MB."""
    at = here + 8
    end = min(end, at + _WIDEST_GAP)
    # Containers among other data lie close to one another: look nearby before reading much.
    length = _NEAR
    while at < end:
        window = source.read(at, min(length, end - at))
        if len(window) < len(MAGIC_BYTES):
            return None
        found = window.find(MAGIC_BYTES)
        while found >= 0:
            if (at + found - start) % 8 == 0:
                return at + found
            found = window.find(MAGIC_BYTES, found + 1)
        at += max(8, (len(window) - 8) // 8 * 8) if len(window) >= length else len(window)
        length = min(length * 4, _WINDOW)
    return None
