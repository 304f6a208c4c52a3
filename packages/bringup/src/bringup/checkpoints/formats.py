"""What a file is, by its first bytes; and what it is when it is no checkpoint."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from bringup.checkpoints.source import FileSlice, Literal
from bringup.checkpoints.tarfiles import is_tar
from bringup.checkpoints.zipfiles import find_end
from bringup.errors import BringupError

ZIP, TAR, LEGACY, PICKLE = "zip", "tar", "legacy", "pickle"

# 0x1950a86a20f9469cfc6c as the pickle of a long; the protocol before it may differ.
_LEGACY_MAGIC = re.compile(rb"\x80.(?:\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", re.DOTALL)
_LEGACY_TEXT = b"L119547037146038801333356L\n."

_OTHER_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "checkpoint-lfs-pointer"),
    (b"GGUF", "checkpoint-gguf"),
    (b"ggml", "checkpoint-gguf"),
    (b"\x89HDF\r\n\x1a\n", "checkpoint-hdf5"),
    (b"\x93NUMPY", "checkpoint-npy"),
    (b"\x1f\x8b", "checkpoint-compressed"),
    (b"BZh", "checkpoint-compressed"),
    (b"\xfd7zXZ\x00", "checkpoint-compressed"),
    (b"(\xb5/\xfd", "checkpoint-compressed"),
    (b"\x04\x22M\x18", "checkpoint-compressed"),
    (b"7z\xbc\xaf'\x1c", "checkpoint-compressed"),
    (b"Rar!\x1a\x07", "checkpoint-compressed"),
    (b"Salted__", "checkpoint-encrypted"),
    (b"-----BEGIN PGP", "checkpoint-encrypted"),
    (b"age-encryption.org/", "checkpoint-encrypted"),
    (b"\x7fELF", "checkpoint-binary"),
    (b"MZ\x90", "checkpoint-binary"),
)
_PICKLE_STARTS = frozenset(b"\x80(]}c)NKJMGILFSVXUTCB\x8a\x8c\x8d\x8e\x88\x89\x8f\x95\x96\x82\x83\x84\x97PQi")


def open_regular(path: Path) -> None:
    """Refuse what is no readable, non-empty file.

    Raises:
        BringupError: `checkpoint-missing`, `checkpoint-directory`, `checkpoint-empty`.
    """
    if path.is_dir():
        raise BringupError("checkpoint-directory")
    if not path.exists():
        raise BringupError("checkpoint-missing")
    if not path.is_file():
        raise BringupError("checkpoint-unreadable", text="not a regular file")
    if path.stat().st_size == 0:
        raise BringupError("checkpoint-empty")


def recognise(data: FileSlice | Literal) -> str:
    """`ZIP`, `TAR`, `LEGACY` or `PICKLE`, by the same first bytes that `torch.load` looks at.

    Raises:
        BringupError: the name of what it is otherwise; `checkpoint-ambiguous` for a file of two formats.
    """
    head = data.part(0, min(data.size, 1024)).read()
    if not head:
        raise BringupError("checkpoint-empty")
    if head.startswith(b"PK\x03\x04"):
        return ZIP
    if head.startswith(b"PK\x05\x06"):
        raise BringupError("checkpoint-other-archive", kind="an empty zip archive")
    _refuse_other_formats(head, data.size)
    kind = _pickle_kind(head)
    if kind is None:
        raise _unknown(head)
    _refuse_zip_behind(data)
    return kind


def _pickle_kind(head: bytes) -> str | None:
    if is_tar(head):
        return TAR
    if _LEGACY_MAGIC.match(head) or head.startswith((_LEGACY_TEXT, b"\x80\x02" + _LEGACY_TEXT)):
        return LEGACY
    if head[:1] == b"\x80":
        return PICKLE if len(head) < 2 or head[1] <= 5 else None
    return PICKLE if head[0] in _PICKLE_STARTS and not _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """A word and spaces in its first line: no pickle begins so, though single letters are instructions."""
    line = head.split(b"\n", 1)[0]
    printable = all(32 <= byte < 127 or byte in b"\t\r" for byte in line)
    return printable and re.match(rb"[A-Za-z]{3,}[ :,;]", line) is not None


def _refuse_other_formats(head: bytes, size: int) -> None:
    for magic, id in _OTHER_MAGIC:
        if head.startswith(magic):
            raise BringupError(id)
    if len(head) > 8 and 2 <= struct.unpack("<Q", head[:8])[0] <= size - 8 and head[8:9] == b"{":
        raise BringupError("checkpoint-safetensors")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<!--")):
        raise BringupError("checkpoint-html")
    if start.startswith((b'{"', b"{'", b'["', b"{\n", b"{\r")) or start == b"{}":
        raise BringupError("checkpoint-text", kind="JSON")
    # A protocol buffer whose first field is a small version number and second a producer's name: ONNX.
    if head[0] == 0x08 and len(head) > 4 and head[1] < 32 and head[2] in (0x12, 0x1A, 0x3A):
        raise BringupError("checkpoint-onnx")
    if not any(head):
        raise BringupError("checkpoint-zeros")


def _refuse_zip_behind(data: FileSlice | Literal) -> None:
    """`torch.load` goes by the first bytes, other programs by the last: such a file has two contents."""
    found = find_end(data)
    if found is None:
        return
    position, row = found
    start = position - row[5]
    if start >= 0 and (row[5] == 0 or data.part(start, min(4, data.size - start)).read() == b"PK\x01\x02"):
        raise BringupError(
            "checkpoint-ambiguous", reason="it ends as a zip archive and begins as something else"
        )


def _unknown(head: bytes) -> BringupError:
    if head.isascii() and head[:200].decode("ascii").replace("\n", "").replace("\r", "").isprintable():
        return BringupError("checkpoint-text", kind="text")
    return BringupError("checkpoint-unknown-format", magic=head[:8].hex(" "))
