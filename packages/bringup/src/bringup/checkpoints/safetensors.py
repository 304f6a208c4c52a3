"""Writing safetensors: 8 bytes of header length, a JSON header, data without gaps.

Format: https://github.com/huggingface/safetensors#format. Entries are sorted by element size, largest
first, and the header is padded to 8 bytes, so that every tensor is aligned.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from bringup.checkpoints.hashing import Hasher

_SIZES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "C64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
}


class Entry(Protocol):
    """What is known of a tensor before its bytes are read; `size` in bytes."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def size(self) -> int: ...


def header(entries: list[Entry], metadata: dict[str, str]) -> bytes:
    """Length and header of a file with these entries, which must be sorted by `storage_order`."""
    document: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for entry in entries:
        offsets = [start, start + entry.size]
        document[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
        start += entry.size
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def storage_order(entry: Entry) -> tuple[int, str]:
    """Sort key: widest elements first; among equals the given order stays."""
    return -_SIZES.get(entry.dtype, 1), entry.dtype


def write(
    path: Path,
    entries: list[Entry],
    metadata: dict[str, str],
    chunks: Callable[[Entry], Iterator[memoryview]],
    advance: Callable[[int], None],
    hold: Callable[[memoryview, Future[None]], None],
) -> dict[str, str]:
    """Write a file.

    Args:
        chunks: gives an entry's bytes in pieces.
        advance: told the number of bytes after each piece.
        hold: told each piece and the work that may read it still when the next one is asked for.

    Returns:
        SHA-256 of each entry's bytes by name.
    """
    digests: dict[str, hashlib._Hash] = {}
    ordered = sorted(entries, key=storage_order)
    with Hasher() as hasher, path.open("wb", buffering=0) as stream:
        _write_all(stream.write, memoryview(header(ordered, metadata)))
        for entry in ordered:
            digest = digests[entry.name] = hashlib.sha256()
            done = 0
            for piece in chunks(entry):
                hold(piece, hasher.update(digest, piece))
                _write_all(stream.write, piece)
                done += len(piece)
                advance(len(piece))
            if done != entry.size:
                raise RuntimeError(f"{entry.name}: {done} bytes of {entry.size}")
        hasher.finish()
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _write_all(write_some: Callable[[memoryview], int | None], piece: memoryview) -> None:
    while piece:
        piece = piece[write_some(piece) or 0 :]
