"""One line on a terminal's standard error for work that takes more than two seconds."""

from __future__ import annotations

import threading

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bringup.report import console
from bringup.report.messages import say


class Waiting:
    """A spinner, what is done (a message key), what it is at, and the time that has passed."""

    def __init__(self, key: str) -> None:
        self._terminal = console.remarks()
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._bar = Progress(*columns, console=self._terminal, transient=True)
        self._title = say(key)
        self._task = self._bar.add_task(self._title, total=None)
        self._timer = threading.Timer(2.0, self._bar.start)
        self._timer.daemon = True

    def __enter__(self) -> Waiting:
        if self._terminal.is_terminal:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._bar.live.is_started:
            self._bar.stop()

    def now(self, text: str) -> None:
        """What is worked at."""
        self._bar.update(self._task, description=f"{self._title} {text[-60:]}")
