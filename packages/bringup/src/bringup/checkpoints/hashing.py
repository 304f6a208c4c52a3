"""Hashing beside reading and writing: with two cores, two digests cost hardly more than one."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from bringup.checkpoints.source import CHUNK, SourceFile

_BACKLOG = 8
"""Pieces that wait to be hashed."""


class Hasher:
    """Updates digests in a thread of its own, in the order of the calls. `with` ends the thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def update(self, digest: hashlib._Hash, piece: memoryview) -> Future[None]:
        """Queue a piece, which must stay as it is until the returned work is done.

        Waits while many pieces are queued, and for a large one, of which memory has no room for two.
        """
        work = self._pool.submit(digest.update, piece)
        self._waiting.append(work)
        while len(self._waiting) > (_BACKLOG if len(piece) <= CHUNK else 0):
            self._waiting.popleft().result()
        return work

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
        self._file.buffers.hold(piece, self._hasher.update(self._digest, piece))
        self._reached += len(piece)

    def _catch_up(self, position: int) -> None:
        while self._reached < position:
            count = min(CHUNK, position - self._reached)
            self._take(self._file.read_piece(self._reached, count))

    def hexdigest(self) -> str:
        """The digest; reads what is left."""
        self._catch_up(self._file.size)
        self._hasher.finish()
        return self._digest.hexdigest()
