"""Dynamic symbols: what a library leaves undefined, and whether another defines it.

Look-ups go through `.gnu.hash`, a few reads a name, since the table of a torch library is tens of megabytes.
Source: the GNU hash section as binutils and glibc have it (bloom filter, buckets, chains of hashes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bringup.binaries.elf import SHT_DYNSYM, SHT_GNU_HASH, ElfFacts, Section
from bringup.binaries.source import Source, text_at

_MOST_TABLE = 64 << 20
_MOST_CHAIN = 4096
# libtorch_cuda leaves some ten thousand undefined.
_MOST_UNDEFINED = 200_000
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class UndefinedSymbol:
    """A name that the loader must find elsewhere; a weak one may stay unfound."""

    name: str
    weak: bool


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: int
    binding: int
    section: int


def _parts(facts: ElfFacts) -> tuple[Section, Section] | None:
    symbols = facts.typed(SHT_DYNSYM)
    if symbols is None or symbols.link >= len(facts.sections):
        return None
    return symbols, facts.sections[symbols.link]


def _layout(facts: ElfFacts) -> struct.Struct:
    return struct.Struct(facts.byte_order + ("IBBHQQ" if facts.bits == 64 else "IIIBBH"))


def _symbol(facts: ElfFacts, row: tuple[int, ...]) -> _Symbol:
    if facts.bits == 64:
        return _Symbol(row[0], row[1] >> 4, row[3])
    return _Symbol(row[0], row[3] >> 4, row[5])


@dataclass(frozen=True, slots=True)
class _GnuHash:
    """The header of `.gnu.hash`, and where its tables stand."""

    first: int
    buckets: int
    bucket_count: int
    chains: int


def _gnu_hash(source: Source, facts: ElfFacts) -> _GnuHash | None:
    section = facts.typed(SHT_GNU_HASH)
    if section is None:
        return None
    head = source.read(section.offset, 16)
    if len(head) < 16:
        return None
    count, first, bloom, _shift = struct.unpack(facts.byte_order + "IIII", head)
    buckets = section.offset + 16 + bloom * facts.bits // 8
    return _GnuHash(first, buckets, count, buckets + 4 * count)


def _rows(source: Source, facts: ElfFacts, symbols: Section, count: int) -> Iterator[_Symbol]:
    layout = _layout(facts)
    size = min(count * layout.size, symbols.size)
    step = _BLOCK * layout.size
    for at in range(0, size, step):
        data = source.read(symbols.offset + at, min(step, size - at))
        for row in layout.iter_unpack(data[: len(data) // layout.size * layout.size]):
            yield _symbol(facts, row)
        if len(data) < step:
            return


def undefined_symbols(source: Source, facts: ElfFacts) -> tuple[UndefinedSymbol, ...]:
    """Names that the dynamic symbol table leaves undefined (global and weak), in its order."""
    parts = _parts(facts)
    if parts is None:
        return ()
    symbols, strings = parts
    table = _gnu_hash(source, facts)
    size = _layout(facts).size
    count = symbols.size // size
    if table is not None and 0 < table.first <= count:
        count = table.first  # Linkers put every undefined symbol ahead of the hashed ones.
    text = source.read(strings.offset, min(strings.size, _MOST_TABLE))
    found = []
    for row in _rows(source, facts, symbols, count):
        if row.section == 0 and row.binding in (1, 2) and row.name < len(text):
            end = text.find(b"\0", row.name)
            name = text[row.name : end if end >= 0 else None][:_BLOCK]
            if name:
                found.append(UndefinedSymbol(name.decode("utf-8", "backslashreplace"), row.binding == 2))
                if len(found) >= _MOST_UNDEFINED:
                    break
    return tuple(found)


def gnu_hash(name: bytes) -> int:
    """The hash of `.gnu.hash`: Bernstein's, 32 bits."""
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def defined_symbols(source: Source, facts: ElfFacts, names: Iterable[str]) -> frozenset[str]:
    """Those of `names` that the library defines for others."""
    wanted = {name: name.encode("utf-8", "replace") for name in names}
    parts = _parts(facts)
    if parts is None:
        return frozenset()
    table = _gnu_hash(source, facts)
    if table is None or not table.bucket_count:
        return _by_listing(source, facts, parts, wanted)
    return frozenset(
        name for name, data in wanted.items() if _find(source, facts, parts, table, name, gnu_hash(data))
    )


def _find(
    source: Source,
    facts: ElfFacts,
    parts: tuple[Section, Section],
    table: _GnuHash,
    name: str,
    value: int,
) -> bool:
    symbols, strings = parts
    word = struct.Struct(facts.byte_order + "I")
    head = source.read(table.buckets + 4 * (value % table.bucket_count), 4)
    if len(head) < 4:
        return False
    (index,) = word.unpack(head)
    if index < table.first:
        return False
    layout = _layout(facts)
    chain = source.read(table.chains + 4 * (index - table.first), 4 * _MOST_CHAIN)
    for step, (hashed,) in enumerate(word.iter_unpack(chain[: len(chain) // 4 * 4])):
        if (hashed | 1) == (value | 1):
            row = source.read(symbols.offset + (index + step) * layout.size, layout.size)
            if len(row) < layout.size:
                return False
            symbol = _symbol(facts, layout.unpack(row))
            same = text_at(source, strings.offset + symbol.name, len(name) + 8) == name
            if same and symbol.section != 0 and symbol.name < strings.size:
                return True
        if hashed & 1:
            return False
    return False


def _by_listing(
    source: Source, facts: ElfFacts, parts: tuple[Section, Section], wanted: dict[str, bytes]
) -> frozenset[str]:
    symbols, strings = parts
    text = source.read(strings.offset, min(strings.size, _MOST_TABLE))
    by_bytes = {data: name for name, data in wanted.items()}
    found = set()
    for row in _rows(source, facts, symbols, symbols.size // _layout(facts).size):
        if row.section != 0 and row.binding in (1, 2, 10) and row.name < len(text):
            end = text.find(b"\0", row.name)
            name = by_bytes.get(text[row.name : end if end >= 0 else None])
            if name is not None:
                found.add(name)
    return frozenset(found)
