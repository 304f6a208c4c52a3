"""The parts of an ELF file that say what it carries and needs.

An own small reader: an environment holds thousands of shared objects, and one of them takes a dozen short
reads here. The tests compare it with pyelftools. Sources: TIS ELF Specification 1.2; System V ABI, «Dynamic
linking»; for symbol versions the LSB Core Specification.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bringup.binaries.source import Damaged, Source, text_at, unpack

MAGIC = b"\x7fELF"
_SHT_DYNAMIC, _SHT_NOBITS = 6, 8
SHT_GNU_HASH, _SHT_VERNEED = 0x6FFFFFF6, 0x6FFFFFFE
SHT_DYNSYM = 11
_TAGS = {1: "needed", 14: "soname", 15: "rpath", 29: "runpath"}
_MACHINES = {3: "i386", 21: "ppc64", 40: "arm", 62: "x86_64", 183: "aarch64", 190: "cuda", 243: "riscv64"}
_MOST_SECTIONS = 65_536
_MOST_DYNAMIC = 1 << 20
_MOST_NAMES = 1 << 22


class Section(NamedTuple):
    """A section's place in the file, in bytes. `link`: index of the section that it refers to.

    `name` is where its name stands in the table of names: of thousands, a handful is ever asked for.
    """

    name: int
    type: int
    offset: int
    size: int
    link: int
    entry_size: int


class VersionNeed(NamedTuple):
    """A symbol version that the loader must find: GLIBC_2.34 of libc.so.6."""

    library: str
    version: str


@dataclass(frozen=True, slots=True)
class ElfFacts:
    """What the loader reads of an ELF file.

    Attributes:
        machine: "x86_64", "aarch64", "cuda" (a cubin), …, or the number.
        relocatable: an object file (ET_REL).
        flags: e_flags; a cubin's architecture stands in it. abi_version: EI_ABIVERSION.
        needed: DT_NEEDED, in order. rpath, runpath: as they are written, `$ORIGIN` and all.
    """

    machine: str
    bits: int
    byte_order: str
    relocatable: bool
    flags: int
    abi_version: int
    sections: tuple[Section, ...]
    names: bytes
    needed: tuple[str, ...]
    soname: str | None
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    versions: tuple[VersionNeed, ...]

    def named(self, name: str) -> tuple[Section, ...]:
        """Sections of this name that have bytes in the file."""
        text = name.encode() + b"\0"
        if text not in self.names:
            return ()
        return tuple(
            s for s in self.sections if self.names.startswith(text, s.name) and s.type != _SHT_NOBITS
        )

    def typed(self, kind: int) -> Section | None:
        """First section of this type."""
        return next((s for s in self.sections if s.type == kind), None)


def read_elf(source: Source) -> ElfFacts:
    """Read headers, section table, dynamic section and the versions that are needed.

    Raises:
        Damaged: whatever is wrong with the bytes.
    """
    ident = source.read(0, 16)
    if ident[:4] != MAGIC:
        raise Damaged("no ELF file")
    if len(ident) < 16 or ident[4] not in (1, 2) or ident[5] not in (1, 2):
        raise Damaged("ELF identification is damaged")
    bits, order = (64 if ident[4] == 2 else 32), ("<" if ident[5] == 1 else ">")
    header = struct.Struct(order + ("HHIQQQIHHHHHH" if bits == 64 else "HHIIIIIHHHHHH"))
    row = unpack(header, source, 16)
    kind, machine, table, flags, entry_size, count, names = row[0], row[1], row[5], row[6], *row[10:13]
    sections, section_names = _sections(source, bits, order, table, entry_size, count, names)
    dynamic = _dynamic(source, bits, order, sections)
    return ElfFacts(
        machine=_MACHINES.get(machine, str(machine)),
        bits=bits,
        byte_order=order,
        relocatable=kind == 1,
        flags=flags,
        abi_version=ident[8],
        sections=sections,
        names=section_names,
        needed=tuple(dynamic["needed"]),
        soname=dynamic["soname"][0] if dynamic["soname"] else None,
        rpath=_paths(dynamic["rpath"]),
        runpath=_paths(dynamic["runpath"]),
        versions=tuple(_version_needs(source, order, sections)),
    )


def _paths(texts: list[str]) -> tuple[str, ...]:
    return tuple(path for text in texts for path in text.split(":") if path)


def _sections(
    source: Source, bits: int, order: str, table: int, entry_size: int, count: int, names: int
) -> tuple[tuple[Section, ...], bytes]:
    """(section table, names). Of each row: name, type, offset, size, link, size of an entry."""
    layout = struct.Struct(order + ("II16xQQI12xQ" if bits == 64 else "II8xIII8xI"))
    if table == 0:
        return (), b""
    if not layout.size <= entry_size <= 256:
        raise Damaged(f"section headers of {entry_size} bytes")
    if count == 0 or names == 0xFFFF:  # Too many for the header's fields: the first section has them.
        first = Section._make(unpack(layout, source, table))
        count, names = count or first.size, first.link if names == 0xFFFF else names
    if count > _MOST_SECTIONS:
        raise Damaged(f"{count} sections")
    data = source.read(table, count * entry_size)
    if len(data) < count * entry_size:
        raise Damaged(
            f"cut off: the section table ends at {table + count * entry_size}, the file at {source.size}"
        )
    if entry_size > layout.size:
        data = b"".join(data[at : at + layout.size] for at in range(0, len(data), entry_size))
    sections = tuple(map(Section._make, layout.iter_unpack(data)))
    if names >= count or sections[names].type == _SHT_NOBITS:
        return sections, b""
    return sections, source.read(sections[names].offset, min(sections[names].size, _MOST_NAMES)) + b"\0"


def _linked(sections: tuple[Section, ...], section: Section) -> Section | None:
    return sections[section.link] if section.link < len(sections) else None


def _dynamic(source: Source, bits: int, order: str, sections: tuple[Section, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in _TAGS.values()}
    section = next((s for s in sections if s.type == _SHT_DYNAMIC), None)
    strings = _linked(sections, section) if section else None
    if section is None or strings is None:
        return found
    layout = struct.Struct(order + ("qQ" if bits == 64 else "iI"))
    data = source.read(section.offset, min(section.size, _MOST_DYNAMIC))
    for tag, value in layout.iter_unpack(data[: len(data) // layout.size * layout.size]):
        if tag == 0:
            break
        name = _TAGS.get(tag)
        if name and value < strings.size and len(found[name]) < 4096:
            found[name].append(text_at(source, strings.offset + value))
    return found


_VERNEED, _VERNAUX = "HHIII", "IHHII"


def _version_needs(source: Source, order: str, sections: tuple[Section, ...]) -> Iterator[VersionNeed]:
    section = next((s for s in sections if s.type == _SHT_VERNEED), None)
    strings = _linked(sections, section) if section else None
    if section is None or strings is None:
        return
    data = source.read(section.offset, min(section.size, _MOST_DYNAMIC))
    file_layout, version_layout = struct.Struct(order + _VERNEED), struct.Struct(order + _VERNAUX)
    at = seen = 0
    while at + file_layout.size <= len(data) and seen < 4096:
        _, count, name, first, following = file_layout.unpack_from(data, at)
        library = text_at(source, strings.offset + name) if name < strings.size else ""
        inner = at + first
        for _ in range(min(count, 4096)):
            if inner + version_layout.size > len(data) or seen >= 4096:
                break
            _, _, _, version, onward = version_layout.unpack_from(data, inner)
            if version < strings.size:
                yield VersionNeed(library, text_at(source, strings.offset + version))
            seen += 1
            if not onward:
                break
            inner += onward
        seen += 1
        if not following:
            return
        at += following
