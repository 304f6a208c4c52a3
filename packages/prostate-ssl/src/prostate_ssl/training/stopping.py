"""Being asked to stop: SIGTERM (a scheduler, a preempted node), Ctrl-C and a job's time limit save first."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import torch
import torch.distributed as dist

from prostate_ssl.training.session import Session


def _requeue_signals() -> list[int]:
    """Signals by which a scheduler's helper (submitit) learns that the job's time is nearly up.

    They are ours only if somebody handles them already, who gets them back after saving.
    """
    candidates = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
    return [number for number in candidates if callable(signal.getsignal(number))]


class StopRequest:
    """Remembers that a signal came; the training looks at it between two iterations.

    A second signal acts at once, as it would without us.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.received: int | None = None
        self.before: dict[int, object] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, *_requeue_signals()):
                self.before[number] = signal.signal(number, self._remember)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self.restore()

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        while self.before:
            number, handler = self.before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]

    def agreed(self, iteration: int, every: int) -> bool:
        """Whether to stop now. Several ranks agree every `every` iterations, so that all save the same."""
        if self.session.world_size == 1:
            return self.received is not None
        if (iteration + 1) % every:
            return False
        flag = torch.tensor(float(self.received is not None), device=self.session.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())
