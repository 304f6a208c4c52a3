"""Zip archives as PyTorch writes them; whatever could be read in two ways is refused.

Source: APPNOTE.TXT 6.3.10 (.ZIP File Format Specification). Checksums are not looked at: PyTorch ignores
them and can be told to write none, so a wrong one must not change what is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from bringup.checkpoints import limits
from bringup.checkpoints.source import Bytes, DeflatedSlice, FileSlice, Literal
from bringup.errors import BringupError

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL_32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Member:
    """One file of the archive; `flags` and `method` as in its headers, sizes in bytes."""

    name: str
    flags: int
    method: int
    packed: int
    size: int
    header: int


class ZipArchive:
    """The members of an archive by name.

    Raises:
        BringupError: `checkpoint-truncated`, `checkpoint-encrypted`, `checkpoint-ambiguous`,
            `checkpoint-zip-bomb`, `checkpoint-limit`.
    """

    def __init__(self, data: FileSlice | Literal) -> None:
        self._data = data
        directory, end, count = self._find_directory()
        self.members: dict[str, Member] = {}
        folded: set[str] = set()
        for member in self._read_directory(directory, end, count):
            # PyTorch's reader (miniz) does not tell capitals from small letters.
            if member.name.lower() in folded:
                raise ambiguous(f"'{member.name[:200]}' stands in it twice")
            folded.add(member.name.lower())
            self.members[member.name] = member
        self._places = {member.name: self._check_local(member) for member in self.members.values()}
        self._check_overlaps(directory)
        self._check_inflation()

    def bytes_of(self, name: str) -> Bytes:
        """Where a member's bytes are."""
        member = self.members[name]
        packed = self._data.part(self._places[name], member.packed)
        if member.method == 0:
            return packed
        if isinstance(packed, Literal):
            raise BringupError(
                "checkpoint-malformed", at=member.header, reason="a nested archive is compressed"
            )
        return DeflatedSlice(packed, member.size)

    def read_small(self, name: str) -> bytes:
        """A member that is read whole."""
        if self.members[name].size > limits.MAX_INFLATED_IN_MEMORY:
            raise limits.exceeded("inflated", limits.MAX_INFLATED_IN_MEMORY)
        return self.bytes_of(name).read()

    def _find_directory(self) -> tuple[int, int, int]:
        """Start and end of the central directory, and its number of entries."""
        found = find_end(self._data)
        if found is None:
            raise BringupError("checkpoint-truncated", at=self._data.size)
        end, (_, disk, start_disk, here, count, size, start, comment) = found
        if end + _END.size + comment != self._data.size:
            raise ambiguous("something follows its end")
        wide = self._read_end64(end)
        if wide is not None:
            narrow = zip(
                (here, count, size, start), wide[1], (0xFFFF, 0xFFFF, _FULL_32, _FULL_32), strict=True
            )
            if any(small not in (large, full) for small, large, full in narrow):
                raise ambiguous("its two end records disagree")
            end, (here, count, size, start) = wide
        elif 0xFFFF in (here, count) or _FULL_32 in (size, start):
            raise ambiguous("its 64-bit end is missing")
        if disk or start_disk or here != count:
            raise ambiguous("it claims to be spread over several disks")
        if start + size != end:
            raise ambiguous("its directory is not where its end says")
        if count > limits.MAX_ZIP_MEMBERS or size > limits.MAX_ZIP_DIRECTORY:
            raise limits.exceeded("zip-members", limits.MAX_ZIP_MEMBERS)
        return start, end, count

    def _read_end64(self, end: int) -> tuple[int, tuple[int, int, int, int]] | None:
        """Position and numbers of the 64-bit end record, which PyTorch always writes."""
        place = end - _END64_LOCATOR.size
        if place < 0:
            return None
        magic, _, start, _ = _END64_LOCATOR.unpack(self._data.part(place, _END64_LOCATOR.size).read())
        if magic != b"PK\x06\x07":
            return None
        if start + _END64.size != place:
            raise ambiguous("its 64-bit end is not where it says")
        row = _END64.unpack(self._data.part(start, _END64.size).read())
        if row[0] != b"PK\x06\x06":
            raise ambiguous("its 64-bit end is damaged")
        return start, (row[6], row[7], row[8], row[9])

    def _read_directory(self, start: int, end: int, count: int) -> list[Member]:
        directory = self._data.part(start, end - start).read()
        members: list[Member] = []
        position = 0
        while position + _CENTRAL.size <= len(directory):
            row = _CENTRAL.unpack_from(directory, position)
            position += _CENTRAL.size
            flags, method, packed, size = row[5], row[6], row[10], row[11]
            name_size, extra_size, comment_size, header = row[12], row[13], row[14], row[18]
            if row[0] != b"PK\x01\x02":
                raise ambiguous("its directory is damaged")
            name = directory[position : position + name_size]
            extra = directory[position + name_size : position + name_size + extra_size]
            position += name_size + extra_size + comment_size
            size, packed, header = _wide_sizes(name, extra, size, packed, header)
            members.append(Member(_member_name(name), flags, method, packed, size, header))
        if position != len(directory) or len(members) != count:
            raise ambiguous("its directory has another number of entries than its end says")
        return members

    def _check_local(self, member: Member) -> int:
        """Compare the local header with the directory; where the member's bytes begin."""
        head = self._data.part(member.header, _LOCAL.size).read()
        magic, _, flags, method, _, _, _, packed, size, name_size, extra_size = _LOCAL.unpack(head)
        if magic != b"PK\x03\x04":
            raise ambiguous(f"'{member.name[:200]}' is not where the directory says")
        # Bit 0: encrypted, 6: strong encryption, 13: masked headers.
        if (flags | member.flags) & 0x2041:
            raise BringupError("checkpoint-encrypted", member=member.name[:200])
        rest = self._data.part(member.header + _LOCAL.size, name_size + extra_size).read()
        if _member_name(rest[:name_size]) != member.name:
            raise ambiguous(f"'{member.name[:200]}' has another name in its own header")
        if method != member.method or method not in (0, 8):
            raise ambiguous(f"'{member.name[:200]}' is packed in an unknown or contradictory way")
        if not flags & 8:
            size, packed, _ = _wide_sizes(rest[:name_size], rest[name_size:], size, packed, 0)
            if (size, packed) != (member.size, member.packed):
                raise ambiguous(f"'{member.name[:200]}' has two sizes")
        if member.method == 0 and member.packed != member.size:
            raise ambiguous(f"'{member.name[:200]}' has two sizes")
        return int(member.header + _LOCAL.size + name_size + extra_size)

    def _check_overlaps(self, directory: int) -> None:
        reached = 0
        for member in sorted(self.members.values(), key=lambda member: member.header):
            if member.header < reached:
                raise BringupError("checkpoint-zip-bomb", member=member.name[:200], ratio="∞")
            reached = self._places[member.name] + member.packed
        if reached > directory:
            raise ambiguous("its members reach into its directory")

    def _check_inflation(self) -> None:
        packed = sum(member.packed for member in self.members.values() if member.method)
        size = sum(member.size for member in self.members.values() if member.method)
        if size > limits.INFLATION_IS_FREE_BELOW and size > packed * limits.MAX_INFLATION:
            largest = max(self.members.values(), key=lambda member: member.size)
            ratio = f"{size / max(packed, 1):,.0f}"
            raise BringupError("checkpoint-zip-bomb", member=largest.name[:200], ratio=ratio)


def ambiguous(reason: str) -> BringupError:
    """The refusal of an archive that two programs would read differently."""
    return BringupError("checkpoint-ambiguous", reason=reason)


def find_end(data: FileSlice | Literal) -> tuple[int, tuple[bytes, int, int, int, int, int, int, int]] | None:
    """Position and fields of the last end record, which PyTorch's reader and Python's `zipfile` take."""
    size = min(data.size, _END.size + 0xFFFF)
    tail = data.part(data.size - size, size).read()
    place = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - _END.size + 4))
    return (data.size - size + place, _END.unpack_from(tail, place)) if place >= 0 else None


def _wide_sizes(name: bytes, extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Fill in 64-bit values from the extra field 0x0001."""
    position, found = 0, False
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        body = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if kind == 0x7075 and body[5:] != name:
            raise ambiguous("a member has a second name, which only some programs read")
        if kind != 1:
            continue
        if found:
            raise ambiguous("a member has its 64-bit sizes twice")
        found = True
        values = iter(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
        size = next(values, size) if size == _FULL_32 else size
        packed = next(values, packed) if packed == _FULL_32 else packed
        header = next(values, header) if header == _FULL_32 else header
    return size, packed, header


def _member_name(name: bytes) -> str:
    """A name that stays inside its folder.

    Raises:
        BringupError: `checkpoint-ambiguous` for absolute names, `..`, backslashes, control characters.
    """
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        text = name.decode("cp437")
    parts = text.split("/")
    if len(text) > limits.MAX_ZIP_NAME or not text.isprintable() or "\\" in text or text[1:2] == ":":
        raise ambiguous(f"a member has the name {text[:100]!r}")
    if not text or text.startswith("/") or any(part in ("..", ".") for part in parts) or "" in parts[:-1]:
        raise ambiguous(f"a member has the name {text[:100]!r}")
    return text
