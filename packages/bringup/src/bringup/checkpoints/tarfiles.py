"""Tar archives as `torch.save` wrote them before 0.1.10; whatever Python's `tarfile` would read otherwise is
refused. Source: POSIX.1-2017 `pax`, and the numbers that `tarfile` accepts in a header.
"""

from __future__ import annotations

import re

from bringup.checkpoints import limits
from bringup.checkpoints.source import FileSlice, Literal
from bringup.checkpoints.zipfiles import ambiguous
from bringup.errors import BringupError

_BLOCK = 512
_MAX_MEMBERS = 1000
# Records of an extended header that rename and resize nothing. A value without spaces can hide no record.
_HARMLESS_RECORDS = re.compile(rb"(?:\d+ (?:mtime|atime|ctime|uid|gid|uname|gname)=[\w.-]*\n)+")


def is_tar(head: bytes) -> bool:
    """Whether `tarfile` would open a file that begins so: `torch.load` asks it before it reads a pickle."""
    return len(head) >= _BLOCK and any(head[:_BLOCK]) and _checksum_fits(head[:_BLOCK])


def read_members(data: FileSlice | Literal) -> dict[str, FileSlice | Literal]:
    """Regular files by name; read where they are, never unpacked.

    Raises:
        BringupError: `checkpoint-ambiguous`, `checkpoint-malformed`, `checkpoint-limit`.
    """
    members: dict[str, FileSlice | Literal] = {}
    position = 0
    while position + _BLOCK <= data.size:
        header = data.part(position, _BLOCK).read()
        if not any(header):
            break
        if not _checksum_fits(header):
            raise BringupError("checkpoint-malformed", at=position, reason="a tar header is damaged")
        name, size = _name(header), _number(header[124:136])
        if size is None or size < 0:
            raise BringupError("checkpoint-malformed", at=position, reason="a tar header is damaged")
        kind, body = header[156:157], data.part(position + _BLOCK, size)
        if kind in (b"0", b"\0"):
            if name in members:
                raise ambiguous(f"'{name}' stands in it twice")
            members[name] = body
        elif kind == b"x":
            if size > 2**16 or not _HARMLESS_RECORDS.fullmatch(body.read()):
                raise ambiguous("an extended header renames a member")
        elif kind != b"5":
            raise ambiguous(f"'{name}' is neither a file nor a folder")
        position += _BLOCK + -(-size // _BLOCK) * _BLOCK
        if len(members) > _MAX_MEMBERS:
            raise limits.exceeded("tar-members", _MAX_MEMBERS)
    return members


def _name(header: bytes) -> str:
    """A printable name: a pickle that is a tar archive as well has instructions there."""
    raw = header[:100].split(b"\0", 1)[0]
    if not raw.isascii() or not raw.decode("ascii").isprintable() or header[345:346] not in (b"\0", b" "):
        raise ambiguous("it is a tar archive and something else")
    return raw.decode("ascii").removeprefix("./")


def _number(field: bytes) -> int | None:
    """Octal digits up to a zero byte; or, after a first byte of 128 or 255, base 256."""
    if field[0] in (0o200, 0o377):
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0o377 else 0)
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        return None


def _checksum_fits(header: bytes) -> bool:
    """The sum of all bytes, the field itself as spaces; of signed bytes, too, as some old tars summed."""
    rest = header[:148] + header[156:]
    unsigned = 256 + sum(rest)
    signed = unsigned - 256 * sum(byte > 127 for byte in rest)
    return _number(header[148:156]) in (unsigned, signed)
