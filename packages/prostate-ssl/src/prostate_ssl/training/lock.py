"""One training a folder: two would write over each other's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from prostate_ssl.errors import ProstateError
from prostate_ssl.objectives.collective import of_all_ranks
from prostate_ssl.training.session import Session


@contextmanager
def alone_in(folder: Path, session: Session) -> Iterator[None]:
    """Keep other trainings out of a run's folder; a process that dies leaves it free.

    Raises:
        ProstateError: on all ranks, if another training is in it.
    """
    lock = FileLock(folder / ".training.lock")
    taken = False
    if session.is_main:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            taken = True
        except (OSError, NotImplementedError):  # a file system without locks
            pass
    try:
        if any(of_all_ranks(taken)):
            raise ProstateError(
                f"Another training is at work in {folder}. Wait for it, stop it, or name another "
                f"--output-dir. If there is none (its node was lost), remove {lock.lock_file}."
            )
        yield
    finally:
        lock.release()
