"""What is told about a running training: log lines, JSON, TensorBoard, progress bar, curves."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import statistics
import sys
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch

from prostate_ssl.files import let_go_of_output, write_atomically, write_json
from prostate_ssl.training.tensorboard_log import TensorBoardLog

log = logging.getLogger("prostate_ssl")
_REWRITE_SECONDS = 15.0


def setup_logging(folder: Path, is_main: bool) -> None:
    """`[date time] message` on the terminal and appended to `log.txt`; other ranks only warn."""
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    log.propagate = False
    log.setLevel(logging.INFO if is_main else logging.ERROR)
    handlers: list[logging.Handler] = [_Terminal(sys.stdout)]
    if is_main:
        handlers.append(_LogFile(folder / "log.txt", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(handler)


class _Terminal(logging.StreamHandler[TextIO]):
    """Where the output goes: once nobody takes it any more (`| head`, a full disk), the training goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        log.removeHandler(self)
        let_go_of_output()
        reason = (error.strerror or str(error)).lower()
        print(f"The output cannot be written ({reason}); log.txt has every line.", file=sys.stderr)
        return None


class _LogFile(logging.FileHandler):
    """`log.txt`: that it cannot be written is said once, in the one paragraph of the command."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        log.removeHandler(self)
        raise error


class SmoothedValue:
    """Median of the last 20 values and mean of all, as the published log shows them."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=20)
        self.total, self.count = 0.0, 0

    def add(self, value: float) -> None:
        self.recent.append(value)
        self.total += value
        self.count += 1

    def __str__(self) -> str:
        return f"{statistics.median(self.recent):.4f} ({self.total / max(self.count, 1):.4f})"


class MetricsLog:
    """Collects the values of each iteration and writes them where people and programs look.

    Files in the run's folder: `training_metrics.jsonl` (appended at once, survives a kill),
    `training_metrics.json` (one object, keyed by the iteration, rewritten atomically), `tensorboard/`,
    `curves.png`. On resuming, records at or after the first iteration are dropped, since they come again.
    It is open from its making and closed by its `with` block, which learns how the training ended.
    """

    def __init__(self, folder: Path, first: int, total: int, every: int) -> None:
        self.folder, self.total, self.every = folder, total, every
        self.lines = folder / "training_metrics.jsonl"
        self.records = {k: v for k, v in read_metrics(folder).items() if k < first}
        write_atomically(self.lines, "".join(_line(k, v) for k, v in self.records.items()).encode())
        self.smoothed: dict[str, SmoothedValue] = {}
        self.started, self.first, self.rewritten = time.monotonic(), first, 0.0
        self.tensorboard = TensorBoardLog(folder / "tensorboard")
        self.bar = _ProgressBar(first, total)

    def add(self, iteration: int, values: dict[str, float], scheduled: dict[str, float]) -> None:
        """Take the values of an iteration; every `every` iterations and at the last, write them."""
        # Where people look first comes first, as in the published log.
        values = {name: values[name] for name in sorted(values, key="total_loss".__ne__)}
        for name, value in values.items():
            self.smoothed.setdefault(name, SmoothedValue()).add(value)
        self.bar.advance(iteration + 1, values.get("total_loss", math.nan))
        if iteration % self.every and iteration + 1 != self.total:
            return
        record = scheduled | values
        self.records[iteration] = record
        with self.lines.open("a") as file:
            file.write(_line(iteration, record))
        if time.monotonic() - self.rewritten > _REWRITE_SECONDS:
            self.flush()
        for name, value in record.items():
            self.tensorboard.scalar(_tag(name), value, iteration)
        log.info(self._message(iteration, scheduled))

    def _message(self, iteration: int, scheduled: dict[str, float]) -> str:
        done = iteration + 1 - self.first
        eta = (time.monotonic() - self.started) / done * (self.total - iteration - 1)
        hours, minutes, seconds = int(eta // 3600), int(eta // 60 % 60), int(eta % 60)
        width = len(str(self.total))
        parts = [
            f"Training  [{iteration:{width}d}/{self.total}]",
            f"eta: {hours}:{minutes:02d}:{seconds:02d}",
        ]
        parts += [f"lr: {scheduled['lr']:.6f}", f"wd: {scheduled['wd']:.4f}"]
        parts += [f"{name}: {value}" for name, value in self.smoothed.items()]
        if torch.cuda.is_available():
            parts.append(f"max mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}")
        return "  ".join(parts)

    def histograms(self, iteration: int, named: dict[str, torch.Tensor]) -> None:
        """Gradient histograms for TensorBoard; non-finite values are left out."""
        for name, tensor in named.items():
            finite = tensor[torch.isfinite(tensor)]
            if finite.numel():
                self.tensorboard.histogram(f"gradients/{name}", finite, iteration)

    def flush(self) -> None:
        """Rewrite the JSON object."""
        self.rewritten = time.monotonic()
        write_json(
            self.folder / "training_metrics.json", {str(k): _finite(v) for k, v in self.records.items()}
        )

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write everything, with the picture of the curves; after a failure, as far as the disk takes it."""
        from prostate_ssl.training.curves import draw_curves

        self.bar.close()
        with contextlib.nullcontext() if error is None else contextlib.suppress(OSError):
            try:
                self.flush()
            finally:
                self.tensorboard.close()
            draw_curves(self.records, self.folder / "curves.png")


def read_metrics(folder: Path) -> dict[int, dict[str, float]]:
    """Records of a run by iteration, from the appended file; a line cut off by a kill is left out."""
    path = folder / "training_metrics.jsonl"
    records: dict[int, dict[str, float]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, KeyError):
            record = json.loads(line)
            records[int(record.pop("iteration"))] = record
    return dict(sorted(records.items()))


def _line(iteration: int, record: dict[str, float]) -> str:
    return json.dumps({"iteration": iteration} | _finite(record), allow_nan=False) + "\n"


def _finite(record: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in record.items()}


def _tag(name: str) -> str:
    if name.endswith("loss"):
        return f"losses/{name}"
    return (
        f"gradient_norm/{name.removeprefix('grad_norm_')}"
        if name.startswith("grad_norm")
        else f"training/{name}"
    )


class _ProgressBar:
    """A bar in a terminal; nothing where output goes to a file."""

    def __init__(self, first: int, total: int) -> None:
        self.progress: Any = None
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            console=Console(stderr=True),
            redirect_stdout=True,
        )
        self.task = self.progress.add_task("training", total=total, completed=first, loss=math.nan)
        self.progress.start()

    def advance(self, completed: int, loss: float) -> None:
        if self.progress:
            self.progress.update(self.task, completed=completed, loss=loss)

    def close(self) -> None:
        if self.progress:
            self.progress.stop()
