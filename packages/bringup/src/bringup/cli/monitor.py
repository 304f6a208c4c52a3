"""`bringup monitor`: GPUs and host, live."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bringup.steps.monitor.samples import Sample

_SHORTEST = 0.1


def command(
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Append every sample to this CSV.")] = None,
    interval: Annotated[float, typer.Option(help="Seconds between samples.")] = 1.0,
    duration: Annotated[float | None, typer.Option(help="Stop after so many seconds.")] = None,
) -> None:
    """Utilisation, memory, power, temperature, clocks and what slows them; CPU, memory, swap, disk.

    A live table in a terminal, a line a sample elsewhere. Ctrl-C ends it and prints the peaks.
    """
    from bringup.errors import BringupError
    from bringup.report import console
    from bringup.report.monitor import Peaks
    from bringup.steps.monitor.table import CsvFile

    if not interval >= _SHORTEST:
        raise BringupError("monitor-interval", exit_code=2, given=interval, least=_SHORTEST)
    if duration is not None and not duration > 0:
        raise BringupError("monitor-duration", exit_code=2, given=duration)
    file = CsvFile(csv) if csv else None
    peaks = Peaks()
    try:
        with _ended_cleanly(), _shown() as show:
            for sample in _samples(interval, duration):
                peaks.add(sample)
                if file:
                    file.add(sample)
                show(sample)
    finally:
        if file:
            file.close()
    peaks.print(console.output())


@contextmanager
def _ended_cleanly() -> Iterator[None]:
    """Ctrl-C, and a request to end, are how this command ends."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _samples(interval: float, duration: float | None) -> Iterator[Sample]:
    """Samples at even times; one that comes late does not delay those after it."""
    from bringup.steps.monitor.samples import Sampler

    with Sampler(Path.cwd()) as sampler:
        began = time.monotonic()
        # Rates and CPU shares are over a first, short span.
        time.sleep(min(interval, _SHORTEST))
        number = 0
        while True:
            yield sampler.read()
            passed = time.monotonic() - began
            number = max(number + 1, int(passed / interval))
            if duration is not None and number * interval >= duration:
                return
            time.sleep(max(0.0, number * interval - passed))


@contextmanager
def _shown() -> Iterator[Callable[[Sample], None]]:
    """How a sample is shown: redrawn in a terminal, else a line that is written at once."""
    from rich.live import Live

    from bringup.report import console
    from bringup.report.monitor import live_table, plain_line

    terminal = console.output()
    if not terminal.is_terminal:
        yield lambda sample: print(plain_line(sample), flush=True)
        return
    with Live(console=terminal, auto_refresh=False, transient=True) as live:
        yield lambda sample: live.update(live_table(sample), refresh=True)
