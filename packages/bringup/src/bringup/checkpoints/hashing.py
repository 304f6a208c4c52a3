"""Hashing beside reading and writing: with two cores, two digests cost hardly more than one."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from bringup.checkpoints.source import CHUNK, SourceFile

BACKLOG = 16
"""Pieces that wait to be hashed; with pieces of `source.CHUNK`, 16 MiB."""


class Hasher:
    """Updates digests in a thread of its own, in the order of the calls.

    A piece must not be changed after it was given; it is let go once it is hashed. `with` ends the thread.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def update(self, digest: hashlib._Hash, piece: memoryview) -> None:
        """Queue a piece; waits while `BACKLOG` pieces are queued."""
        self._waiting.append(self._pool.submit(digest.update, piece))
        if len(self._waiting) > BACKLOG:
            self._waiting.popleft().result()

    def finish(self) -> None:
        """Wait until all is hashed."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Hasher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()


class SourceDigest:
    """SHA-256 of a whole file, mostly of pieces that are read for their own sake.

    Pieces that come in the file's order are hashed as they pass; what is left out is read.
    """

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._reached = 0
        self._hasher = Hasher()

    def __enter__(self) -> SourceDigest:
        self._file.observer = self._see
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.observer = None
        self._hasher.__exit__(kind, error, trace)

    def _see(self, position: int, piece: memoryview) -> None:
        if position < self._reached:
            return
        self._catch_up(position)
        self._take(piece)

    def _take(self, piece: memoryview) -> None:
        self._hasher.update(self._digest, piece)
        self._reached += len(piece)

    def _catch_up(self, position: int) -> None:
        while self._reached < position:
            count = min(CHUNK, position - self._reached)
            self._take(memoryview(self._file.read(self._reached, count)))

    def hexdigest(self) -> str:
        """The digest; reads what is left."""
        self._catch_up(self._file.size)
        self._hasher.finish()
        return self._digest.hexdigest()
