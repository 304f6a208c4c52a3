"""Static libraries: the members of an `ar` archive.

Source: System V ABI, «Archive file»; GNU and BSD spellings of long names.
"""

from __future__ import annotations

from collections.abc import Iterator

from bringup.binaries.source import Damaged, SliceSource, Source

MAGIC = b"!<arch>\n"
_HEADER = 60
_MOST_MEMBERS = 100_000


def members(source: Source) -> Iterator[SliceSource]:
    """The members' bytes, without the symbol index and the table of names.

    Raises:
        Damaged: a header that is none.
    """
    at = len(MAGIC)
    for _ in range(_MOST_MEMBERS):
        header = source.read(at, _HEADER)
        if not header.strip(b"\0\n "):
            return
        size = header[48:58].strip()
        if len(header) < _HEADER or header[58:60] != b"`\n" or not size.isdigit():
            raise Damaged(f"the member header at byte {at} is damaged")
        length = int(size)
        if not header.startswith((b"/ ", b"// ", b"/SYM64/", b"__.SYMDEF")):
            yield SliceSource(source, at + _HEADER, length)
        at += _HEADER + length + length % 2
    raise Damaged(f"more than {_MOST_MEMBERS} members")
