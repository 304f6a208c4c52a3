"""tar archives, header by header, from a source that may only go forward.

Python's tarfile reads an extension header as long as the archive claims it to be; here it is bounded.
Source: POSIX.1-2017, «pax Interchange Format»; GNU tar, «Basic Tar Format».
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bringup.binaries.source import Damaged, Source

_BLOCK = 512
_MOST_TEXT = 1 << 20
_MOST_MEMBERS = 5_000_000


@dataclass(frozen=True, slots=True)
class TarMember:
    """One member.

    Attributes:
        path: without leading "./" and "/".
        kind: "file", "link" (symbolic), "hard-link", "folder", "other".
        target: of a link, as it is written.
        offset, size: of its bytes in the source.
    """

    path: str
    kind: str
    target: str
    offset: int
    size: int


_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"1": "hard-link", b"2": "link", b"5": "folder"}
_WITHOUT_BYTES = (b"1", b"2", b"3", b"4", b"5", b"6")


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: big-endian binary for what octal digits cannot hold.
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.split(b"\0")[0].strip()
    if not text:
        return 0
    try:
        return int(text, 8)
    except ValueError as error:
        raise Damaged("a tar header with a size that is no number") from error


def _checksum_holds(block: bytes) -> bool:
    try:
        told = _number(block[148:156])
    except Damaged:
        return False
    return told == sum(block) - sum(block[148:156]) + 8 * 0x20


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _records(data: bytes) -> dict[str, str]:
    """Records of a pax header: "LENGTH KEY=VALUE\\n"."""
    found = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 12)
        if space < 0 or not data[at:space].isdigit():
            break
        length = int(data[at:space])
        if length <= space - at + 1:
            break
        key, _, value = data[space + 1 : at + length - 1].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += length
    return found


def clean_path(path: str) -> str:
    """Without "./", leading and doubled slashes, and with ".." taken as inside the archive's root."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def members(source: Source) -> Iterator[TarMember]:
    """The members in order. The source is read forward only, as long as the caller reads in order too.

    Raises:
        Damaged: the archive is none, or is cut off, be it exactly between two members.
    """
    at = end = 0
    pax: dict[str, str] = {}
    for count in range(_MOST_MEMBERS):
        block = source.read(at, _BLOCK)
        if not block.strip(b"\0"):
            if not block and count == 0:
                raise Damaged("empty")
            if end > source.size:
                raise Damaged(f"cut off: its last member ends at byte {end}, the archive at {source.size}")
            if not block:
                raise Damaged(f"cut off: it ends at byte {at} without an archive's last block")
            return
        if len(block) < _BLOCK or not _checksum_holds(block):
            raise Damaged(f"no tar archive, or cut off, at byte {at}")
        kind, size = block[156:157], _number(block[124:136])
        body = at + _BLOCK
        if kind in (b"x", b"g", b"L", b"K"):
            if size > _MOST_TEXT:
                raise Damaged(f"an extension header of {size} bytes")
            data = source.read(body, size)
            if kind == b"x":
                pax.update(_records(data))
            elif kind != b"g":
                pax["path" if kind == b"L" else "linkpath"] = _text(data)
        else:
            told = int(pax["size"]) if pax.get("size", "").isdigit() else size
            length = 0 if kind in _WITHOUT_BYTES else told
            yield _member(block, kind, pax, body, length)
            size, pax = length, {}
        end = body + size
        at = body + -(-size // _BLOCK) * _BLOCK
    raise Damaged(f"more than {_MOST_MEMBERS} members")


def _member(block: bytes, kind: bytes, pax: dict[str, str], body: int, size: int) -> TarMember:
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    name = _text(block[:100])
    path = pax.get("path") or (f"{prefix}/{name}" if prefix else name)
    target = pax.get("linkpath") or _text(block[157:257])
    return TarMember(clean_path(path), _KINDS.get(kind, "other"), target, body, size)
