"""Steps and stages as they happen: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from bringup.report.messages import knows, say

# A workload that prints «[  10/60]» anywhere in a line shows how far it is.
_COUNT = re.compile(r"\[\s*(\d+)/(\d+)\]")
_BAR = re.compile(r"\d%\s*\|")  # tqdm's, which is written anew many times a second
_QUIET_SECONDS = 10.0


def duration(seconds: float) -> str:
    """ "0.4 s", "12 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds >= 2 * 3600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes:02d} min"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def brief(seconds: float) -> str:
    """A short time as well: "80 ms", "1.19 s", then as `duration`."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else duration(seconds)


def size(count: float) -> str:
    """Bytes for people: "192 MB", "3.4 GB" (powers of ten, as disks and indexes count)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.{1 if count < 10 * factor else 0}f} {unit}"
    return f"{count:.0f} B"


class StepDisplay:
    """An `Observer` for people. Use as a context manager.

    Args:
        title_of: turns a step's id into its title in the current language.
        text_of: what to show of a line of output; None hides it.
        every_line: print what the program prints, apart from progress bars: it is the user's own.
    """

    def __init__(
        self,
        console: Console,
        title_of: Callable[[str], str],
        text_of: Callable[[str], str | None] | None = None,
        *,
        every_line: bool = False,
    ) -> None:
        self._console = console
        self._title_of = title_of
        self._text_of = text_of or (lambda line: line)
        self._every_line = every_line
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0

    def __enter__(self) -> StepDisplay:
        if self._console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TimeElapsedColumn(),
                TextColumn("{task.fields[line]}", markup=False, style="dim"),
            )
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def started(self, step: str) -> None:
        self._last_line = time.monotonic()
        if self._progress:
            if self._task is not None:
                self._progress.remove_task(self._task)  # It failed, and is tried another way.
            self._task = self._progress.add_task(self._title_of(step), total=None, line="")
        else:
            self._console.print(f"  … {self._title_of(step)}", markup=False)

    def line(self, step: str, text: str) -> None:
        shown = self._text_of(text)
        if self._every_line and shown and not _BAR.search(shown):
            self._console.print(shown, markup=False, highlight=False, soft_wrap=True)
            return
        count = _COUNT.search(text)
        if self._progress and self._task is not None:
            room = max(10, self._console.width - 60)
            if count:
                self._progress.update(self._task, completed=int(count[1]), total=int(count[2]))
            if shown:
                self._progress.update(self._task, line=shown[:room])
        elif shown and (count or time.monotonic() - self._last_line > _QUIET_SECONDS):
            self._last_line = time.monotonic()
            self._console.print(f"      {shown[:110]}", markup=False)

    def finished(self, step: str, seconds: float, reused: bool) -> None:
        if self._progress and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        key = "progress.reused" if reused else "progress.done"
        self._console.print(say(key, title=self._title_of(step), duration=duration(seconds)), markup=False)


def step_title(step: str) -> str:
    """Title of a plan's step: from the catalogue, else its id (a package's own name)."""
    key = f"steps.{step}"
    return say(key) if knows(key) else say("steps.install", name=step)
