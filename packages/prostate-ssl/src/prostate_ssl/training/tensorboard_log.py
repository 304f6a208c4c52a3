"""TensorBoard's files of a run, and the silence of the thread that writes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import torch

Hook = Callable[[threading.ExceptHookArgs], object]


class TensorBoardLog:
    """Scalars and histograms in a folder; open from its making until `close`.

    What the disk refuses is raised as OSError by a later call, or by `close`.

    Args:
        folder: where the event files go; it is made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._quiet = _QuietWriterThread()
        try:
            self._writer = SummaryWriter(str(folder))
        except BaseException:
            self._quiet.close()
            raise

    def scalar(self, tag: str, value: float, iteration: int) -> None:
        """Add a point of a curve."""
        self._writer.add_scalar(tag, value, iteration)

    def histogram(self, tag: str, values: torch.Tensor, iteration: int) -> None:
        """Add a histogram of finite values, any shape."""
        self._writer.add_histogram(tag, values, iteration)

    def close(self) -> None:
        """Write what is left and end the thread, which a full disk must not leave behind either."""
        files = self._writer.file_writer
        try:
            self._writer.close()
        finally:
            try:
                if files is not None:
                    files.close()
            finally:
                self._quiet.close()


class _QuietWriterThread:
    """`threading.excepthook` from its making until `close`: a full disk is not told by the writer's thread.

    That thread keeps its error for the next call, which says it in the caller's. Everything else goes to the
    hook that was there before. Hooks may be closed in any order, and somebody else's may stand between them:
    one that cannot be taken out of the middle only passes on.
    """

    def __init__(self) -> None:
        from tensorboard.summary.writer import event_file_writer

        self.writers = event_file_writer.__name__
        self.is_open = True
        self.before: Hook = _first_in_use(threading.excepthook)
        threading.excepthook = self

    def __call__(self, ended: threading.ExceptHookArgs) -> None:
        of_a_writer = type(ended.thread).__module__ == self.writers
        if not (self.is_open and of_a_writer and issubclass(ended.exc_type, OSError)):
            self.before(ended)

    def close(self) -> None:
        """Give the hook back, unless somebody has set another since."""
        self.is_open = False
        if threading.excepthook is self:
            threading.excepthook = _first_in_use(self)


def _first_in_use(hook: Hook) -> Hook:
    while isinstance(hook, _QuietWriterThread) and not hook.is_open:
        hook = hook.before
    return hook
