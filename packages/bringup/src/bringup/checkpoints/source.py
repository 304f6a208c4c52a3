"""Bytes of a file by position. Nothing is read before it is needed, and only what is needed.

Positioned reads rather than a memory map: pages of a map count as the process's memory while they are
touched, and a file that shrinks under a map kills the process with SIGBUS.
"""

from __future__ import annotations

import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from bringup.errors import BringupError

CHUNK = 2**20
_PIECES = 8
_WINDOW = 2**16


Observer = Callable[[int, memoryview], None]
"""Sees pieces of a file as they are read, with their positions."""


class Buffers:
    """Memory for the pieces of a file, used in turns: fresh memory for each costs more than hashing it.

    A piece stays as it is until those who work at it elsewhere (`hold`) are done.
    """

    def __init__(self) -> None:
        self._slots: list[tuple[bytearray, list[Future[None]]]] = []
        self._turn = -1

    def take(self, size: int) -> memoryview:
        """Memory for the next piece, of at most `CHUNK` bytes."""
        self._turn = (self._turn + 1) % _PIECES
        if self._turn == len(self._slots):
            self._slots.append((bytearray(CHUNK), []))
        buffer, holders = self._slots[self._turn]
        while holders:
            holders.pop().result()
        return memoryview(buffer)[:size]

    def hold(self, piece: memoryview, work: Future[None]) -> None:
        """Keep what `piece` shows until `work` is done; memory that is not ours needs no keeping."""
        for buffer, holders in self._slots:
            if piece.obj is buffer:
                holders.append(work)


class SourceFile:
    """An open file; closed with `close` or by `with`."""

    def __init__(self, path: Path, buffers: Buffers | None = None) -> None:
        self._lock = threading.Lock()
        self.observer: Observer | None = None
        self.buffers = buffers or Buffers()
        self._stream = path.open("rb", buffering=0)
        self.path = path
        self.size = os.fstat(self._stream.fileno()).st_size

    def read(self, position: int, count: int) -> bytes:
        """`count` bytes from `position` on; same errors as `read_into`."""
        buffer = bytearray(count)
        self.read_into(position, memoryview(buffer))
        return bytes(buffer)

    def read_piece(self, position: int, count: int) -> memoryview:
        """As `read`, for at most `CHUNK` bytes, in one of `buffers`."""
        piece = self.buffers.take(count)
        self.read_into(position, piece)
        return piece

    def read_into(self, position: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `position` on.

        Raises:
            BringupError: `checkpoint-truncated` when the file ends before.
        """
        done = 0
        while done < len(target):
            count = self._read_some(position + done, target[done:])
            if count == 0:
                raise BringupError("checkpoint-truncated", at=position + done)
            done += count

    def _read_some(self, position: int, target: memoryview) -> int:
        try:
            if sys.platform != "win32":
                return os.preadv(self._stream.fileno(), [target], position)
            with self._lock:
                self._stream.seek(position)
                return self._stream.readinto(target) or 0
        except OSError as error:
            raise BringupError("checkpoint-unreadable", text=error.strerror or error) from error

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class FileSlice:
    """`size` bytes of a file from `start` on, not yet read."""

    file: SourceFile
    start: int
    size: int

    def part(self, start: int, size: int) -> FileSlice:
        """A slice of this slice.

        Raises:
            BringupError: `checkpoint-truncated` when it reaches beyond the end.
        """
        if start < 0 or size < 0 or start + size > self.size:
            raise BringupError("checkpoint-truncated", at=self.start + max(start, 0))
        return FileSlice(self.file, self.start + start, size)

    def read(self) -> bytes:
        """All bytes."""
        return self.file.read(self.start, self.size)

    def chunks(self) -> Iterator[memoryview]:
        """All bytes in pieces of `CHUNK`, each valid until the next or as long as it is held."""
        for start in range(0, self.size, CHUNK):
            piece = self.file.read_piece(self.start + start, min(CHUNK, self.size - start))
            if self.file.observer:
                self.file.observer(self.start + start, piece)
            yield piece


@dataclass(frozen=True)
class DeflatedSlice:
    """A compressed stretch of a file that stands for `size` bytes."""

    packed: FileSlice
    size: int

    def chunks(self) -> Iterator[memoryview]:
        """All bytes in pieces of at most `CHUNK`.

        Raises:
            BringupError: `checkpoint-malformed` when the stream is damaged or has another length than `size`.
        """
        inflater = zlib.decompressobj(-15)
        done = 0
        try:
            for piece in self.packed.chunks():
                data: bytes = bytes(piece)
                while data:
                    out = inflater.decompress(data, CHUNK)
                    data = inflater.unconsumed_tail
                    done += len(out)
                    if done > self.size:
                        break
                    if out:
                        yield memoryview(out)
        except zlib.error as error:
            raise BringupError("checkpoint-malformed", at=self.packed.start, reason=str(error)) from error
        if done != self.size or not inflater.eof:
            reason = f"a compressed member does not have the {self.size} bytes that it claims"
            raise BringupError("checkpoint-malformed", at=self.packed.start, reason=reason)

    def read(self) -> bytes:
        """All bytes."""
        return b"".join(bytes(piece) for piece in self.chunks())


@dataclass(frozen=True)
class Literal:
    """Bytes that are in memory already."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def part(self, start: int, size: int) -> Literal:
        """A slice; same errors as `FileSlice.part`."""
        if start < 0 or size < 0 or start + size > len(self.data):
            raise BringupError("checkpoint-truncated", at=max(start, 0))
        return Literal(self.data[start : start + size])

    def read(self) -> bytes:
        return self.data

    def chunks(self) -> Iterator[memoryview]:
        if self.data:
            yield memoryview(self.data)


Bytes = FileSlice | DeflatedSlice | Literal


class ByteReader:
    """Sequential reading of a slice through a small window, as a pickle machine needs it."""

    def __init__(self, source: FileSlice | Literal) -> None:
        self._source = source
        self._window = b""
        self._window_start = 0
        self.position = 0
        self.size = source.size

    def read(self, count: int) -> bytes:
        """The next `count` bytes.

        Raises:
            BringupError: `checkpoint-truncated` when there are fewer; nothing is allocated for them.
        """
        start = self.position - self._window_start
        end = start + count
        if end > len(self._window):
            if self.position + count > self.size:
                raise BringupError("checkpoint-truncated", at=self.position)
            self._window_start = self.position
            size = min(max(count, _WINDOW), self.size - self.position)
            self._window = self._source.part(self.position, size).read()
            start, end = 0, count
        self.position += count
        return self._window[start:end]

    def read_line(self, limit: int) -> bytes:
        """Up to and without the next newline.

        Raises:
            BringupError: `checkpoint-malformed` when no newline comes within `limit` bytes.
        """
        begin = self.position
        parts: list[bytes] = []
        while self.position - begin <= limit and self.position < self.size:
            piece = self.read(min(256, self.size - self.position))
            end = piece.find(b"\n")
            if end >= 0:
                self.position -= len(piece) - end - 1
                return b"".join([*parts, piece[:end]])
            parts.append(piece)
        if self.position >= self.size:
            raise BringupError("checkpoint-truncated", at=self.size)
        raise BringupError("checkpoint-malformed", at=begin, reason=f"a line of over {limit} bytes")

    def take(self, count: int) -> FileSlice | Literal:
        """The next `count` bytes, left in the file."""
        taken = self._source.part(self.position, count)
        self.position += count
        return taken
