"""Compressed streams as sources that go forward only: gzip and zstd, bounded in memory and in growth."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import zstandard

from bringup.binaries.source import Damaged, Source

_CHUNK = 1 << 20
_LARGEST_WINDOW = 128 << 20
# Image layers shrink three-fold; a stream that grows so much is made to harm.
_STEEPEST, _SMALL = 300, 1 << 30


class _Reader(io.RawIOBase):
    """A source as a file that is read from its beginning."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._source.read(self.position, len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


class ForwardSource:
    """A stream; what has been passed is gone. `size` is a number beyond all files until its end was met."""

    def __init__(self, stream: BinaryIO, packed: _Reader) -> None:
        self._stream = stream
        self._packed = packed
        self._position = 0
        self.size = 1 << 62

    def read(self, offset: int, length: int) -> bytes:
        """As `Source.read`.

        Raises:
            Damaged: the stream is broken or grows beyond reason. ValueError: `offset` was passed.
        """
        if offset < self._position:
            raise ValueError("a stream that goes forward only")
        while self._position < offset:
            if not self._take(min(_CHUNK, offset - self._position)):
                return b""
        parts = []
        while length > 0 and (part := self._take(min(_CHUNK, length))):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _take(self, length: int) -> bytes:
        try:
            part = self._stream.read(length)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise Damaged(f"its compressed stream is broken: {error}") from error
        self._position += len(part)
        if not part:
            self.size = self._position
        if self._position > max(_SMALL, _STEEPEST * self._packed.position):
            raise Damaged("its compressed stream grows beyond reason")
        return part


@contextmanager
def decompressed(source: Source) -> Iterator[Source]:
    """The source itself, or what its gzip or zstd stream holds; decided by the first bytes."""
    head = source.read(0, 4)
    if head[:2] == b"\x1f\x8b":
        reader = _Reader(source)
        with gzip.GzipFile(fileobj=io.BufferedReader(reader, _CHUNK), mode="rb") as stream:
            yield ForwardSource(stream, reader)  # type: ignore[arg-type]
    elif head == b"\x28\xb5\x2f\xfd":
        reader = _Reader(source)
        unpacker = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        with unpacker.stream_reader(io.BufferedReader(reader, _CHUNK), read_across_frames=True) as packed:
            yield ForwardSource(packed, reader)
    else:
        yield source
