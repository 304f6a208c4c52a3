"""Bytes that can be read at an offset: a file, a part of one, a buffer, a stream that only goes forward.

Files are read with positioned reads and not mapped into memory: a mapped file that shrinks while it is
looked at (pip at work next door, a network disk) kills the process, and a cold page costs more.
"""

from __future__ import annotations

import os
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

_CHUNK = 1 << 20
_READ_WINDOW = 1 << 16
_NEAR_READ = 1 << 15
# A pipe would wait for a writer; Windows would translate line ends.
_WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class Damaged(ValueError):
    """The bytes are not what they claim to be, or claim more than this reader takes; the text says what."""


class Source(Protocol):
    """Random access to bytes."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset`; fewer than `length` only at the end, b"" beyond it."""


class BytesSource:
    """A buffer."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length] if offset >= 0 and length > 0 else b""


class FileSource:
    """An open file, by its descriptor; closed by its owner."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    if hasattr(os, "pread"):

        def read(self, offset: int, length: int) -> bytes:
            if offset >= self.size or offset < 0 or length <= 0:
                return b""
            return os.pread(self._descriptor, min(length, self.size - offset), offset)

    else:

        def read(self, offset: int, length: int) -> bytes:
            if offset >= self.size or offset < 0 or length <= 0:
                return b""
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, min(length, self.size - offset))


class SliceSource:
    """A part of another source, for example a stored member of an archive."""

    def __init__(self, whole: Source, start: int, size: int) -> None:
        self.whole = whole
        self._start = start
        self.size = max(0, min(size, whole.size - start))

    def read(self, offset: int, length: int) -> bytes:
        if offset >= self.size or offset < 0 or length <= 0:
            return b""
        return self.whole.read(self._start + offset, min(length, self.size - offset))


class WindowedSource:
    """Another source, read in windows where the reads come close after one another.

    Some libraries hold tens of thousands of small containers: a system call for each header costs more than
    reading what lies between.
    """

    def __init__(self, whole: Source) -> None:
        self._whole = whole
        self.size = whole.size
        self._window = b""
        self._start = 0

    def read(self, offset: int, length: int) -> bytes:
        skip = offset - self._start
        if skip < 0 or skip + length > len(self._window):
            near = 0 <= skip - len(self._window) + length < _NEAR_READ
            self._window = self._whole.read(offset, max(length, _READ_WINDOW) if near else length)
            self._start, skip = offset, 0
        return self._window[skip : skip + length]


@contextmanager
def open_source(path: str | Path) -> Iterator[FileSource]:
    """A regular file as a source.

    Raises:
        OSError: it cannot be opened. Damaged: it is a device, a pipe or a folder (which could block).
    """
    descriptor = os.open(path, os.O_RDONLY | _WITHOUT_WAITING)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Damaged("not a regular file")
        yield FileSource(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def spilled(chunks: Iterator[bytes], size: int, in_memory: int = 16 * _CHUNK) -> Iterator[Source]:
    """Bytes that arrive in order, made readable in any order: in memory if few, else in a temporary file.

    Args:
        size: how many are announced; more are refused.

    Raises:
        Damaged: there are more or fewer than announced. OSError: no room for them.
    """
    if size <= in_memory:
        data = b"".join(_announced(chunks, size))
        yield BytesSource(data)
        return
    with tempfile.TemporaryFile(prefix="bringup-scan-") as stream:
        for chunk in _announced(chunks, size):
            stream.write(chunk)
        stream.flush()
        yield FileSource(stream.fileno())


def _announced(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > size:
            raise Damaged(f"holds more than the {size} bytes that it announces")
        yield chunk
    if seen < size:
        raise Damaged(f"ends after {seen} of {size} bytes")


def chunks_of(source: Source, start: int = 0, size: int | None = None) -> Iterator[bytes]:
    """The bytes in order, a megabyte at a time."""
    end = source.size if size is None else start + size
    while start < end:
        chunk = source.read(start, min(_CHUNK, end - start))
        if not chunk:
            return
        start += len(chunk)
        yield chunk


def unpack(layout: struct.Struct, source: Source, offset: int) -> tuple[int, ...]:
    """Read one fixed record.

    Raises:
        Damaged: the source ends before it.
    """
    data = source.read(offset, layout.size)
    if len(data) < layout.size:
        raise Damaged(f"ends at byte {source.size}, inside a header at {offset}")
    return layout.unpack(data)


def text_at(source: Source, offset: int, most: int = 4096) -> str:
    """A NUL-terminated string, at most `most` bytes of it; bytes that are no UTF-8 are escaped."""
    data = b""
    while len(data) < most:
        part = source.read(offset + len(data), 256)
        end = part.find(b"\0")
        if end >= 0 or not part:
            data += part[:end] if end >= 0 else part
            break
        data += part
    return data[:most].decode("utf-8", "backslashreplace")
