"""The parts of a Windows PE file (.dll, .pyd, .exe) that say what it carries and needs.

Source: Microsoft, «PE Format».
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from bringup.binaries.source import Damaged, Source, text_at, unpack

MAGIC = b"MZ"
_MACHINES = {0x14C: "i386", 0x8664: "x86_64", 0xAA64: "aarch64"}
_FATBIN_PREFIXES = (".nv_fat", ".nvFatBi")
_SECTION = struct.Struct("<8sIIIIIIHHI")
_IMPORT = struct.Struct("<IIIII")
_DELAYED = struct.Struct("<IIIIIIII")
_MOST_IMPORTS = 4096


@dataclass(frozen=True, slots=True)
class PeSection:
    """A section. `address` is relative to the image's base; `offset` and `size` are of the file, in bytes."""

    name: str
    address: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class PeFacts:
    """What Windows' loader reads. `needed`: the DLLs imported at once, then the delayed ones."""

    machine: str
    sections: tuple[PeSection, ...]
    needed: tuple[str, ...]

    def fatbin_sections(self) -> tuple[PeSection, ...]:
        """Sections that hold fat binaries; `.nvFatBinSegment`-like names hold only pointers to them."""
        return tuple(s for s in self.sections if s.name.startswith(_FATBIN_PREFIXES))


def read_pe(source: Source) -> PeFacts:
    """Read headers, section table and import tables.

    Raises:
        Damaged: whatever is wrong with the bytes.
    """
    if source.read(0, 2) != MAGIC:
        raise Damaged("no PE file")
    (start,) = unpack(struct.Struct("<I"), source, 0x3C)
    if source.read(start, 4) != b"PE\0\0":
        raise Damaged("a DOS program, not a PE file")
    machine, count, _, _, _, optional_size, _ = unpack(struct.Struct("<HHIIIHH"), source, start + 4)
    if count > 4096:
        raise Damaged(f"{count} sections")
    optional = source.read(start + 24, optional_size)
    sections = _sections(source, start + 24 + optional_size, count)
    needed = [*_imports(source, sections, optional, 1), *_imports(source, sections, optional, 13)]
    return PeFacts(_MACHINES.get(machine, hex(machine)), sections, tuple(dict.fromkeys(needed)))


def _sections(source: Source, start: int, count: int) -> tuple[PeSection, ...]:
    data = source.read(start, count * _SECTION.size)
    if len(data) < count * _SECTION.size:
        raise Damaged(f"cut off: the section table ends at {start + count * _SECTION.size}")
    found = []
    for name, _virtual, address, size, offset, *_ in _SECTION.iter_unpack(data):
        text = name.split(b"\0")[0].decode("ascii", "backslashreplace")
        found.append(PeSection(text, address, offset, size))
    return tuple(found)


def _offset(sections: tuple[PeSection, ...], address: int) -> int | None:
    """Where in the file a relative address stands."""
    for section in sections:
        if section.address <= address < section.address + section.size:
            return section.offset + address - section.address
    return None


def _imports(source: Source, sections: tuple[PeSection, ...], optional: bytes, directory: int) -> list[str]:
    if len(optional) < 2:
        return []
    (magic,) = struct.unpack_from("<H", optional)
    at = (112 if magic == 0x20B else 96) + 8 * directory
    if at + 8 > len(optional):
        return []
    address, _size = struct.unpack_from("<II", optional, at)
    where = _offset(sections, address) if address else None
    if where is None:
        return []
    layout, name_field = (_IMPORT, 3) if directory == 1 else (_DELAYED, 1)
    names = []
    for index in range(_MOST_IMPORTS):
        data = source.read(where + index * layout.size, layout.size)
        if len(data) < layout.size or not any(data):
            break
        name = _offset(sections, layout.unpack(data)[name_field])
        if name is None:
            break
        names.append(text_at(source, name, 256))
    return names
