"""`bringup convert CKPT… -o DIR`: old pickled models → tensors and a description, without running them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

import typer


def command(
    checkpoints: Annotated[list[Path], typer.Argument(metavar="CKPT...", help="Checkpoint files.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for NAME.safetensors and NAME.json.")
    ] = Path("converted_models"),
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Only show the tree and every class and function it names.")
    ] = False,
    accept_calls: Annotated[
        bool,
        typer.Option(
            "--accept-calls", help="Take the tensors out of a file that names dangerous calls, too."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> int:
    """Read pickled models without running them; write safetensors and a JSON description.

    Exit 0 done, 1 refused or (with --inspect) calls that no checkpoint needs, 2 usage.
    """
    return _inspect(checkpoints, json) if inspect else _convert(checkpoints, output, accept_calls, json)


def _inspect(paths: list[Path], as_json: bool) -> int:
    from bringup.checkpoints import open_checkpoint
    from bringup.checkpoints.verdicts import UNNEEDED
    from bringup.errors import BringupError
    from bringup.report import checkpoints as report
    from bringup.report import console, messages

    rows: list[dict[str, Any]] = []
    bad = False
    for path in paths:
        try:
            with open_checkpoint(path) as checkpoint:
                if as_json:
                    rows.append(report.inspection_json(checkpoint))
                else:
                    report.print_inspection(checkpoint, console.output())
                bad = bad or checkpoint.verdict == UNNEEDED
        except BringupError as error:  # noqa: PERF203 - one bad file must not stop the others
            rows.append(report.failure_json(path, error))
            console.remarks().print(messages.say_error(error), style="red", markup=False)
            bad = True
    if as_json:
        console.print_json({"schema": "bringup/inspect/1", "checkpoints": rows})
    return int(bad)


def _convert(paths: list[Path], output: Path, accept_calls: bool, as_json: bool) -> int:
    from bringup.checkpoints import convert_all
    from bringup.errors import BringupError
    from bringup.report import checkpoints as report
    from bringup.report import console, messages

    with _Progress(sum(path.stat().st_size for path in paths if path.is_file())) as progress:
        results = convert_all(paths, output, accept_calls, progress.advance)
    rows = []
    failures = 0
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, BringupError):
            failures += 1
            rows.append(report.failure_json(path, result))
            console.remarks().print(messages.say_error(result), style="red", markup=False)
        else:
            rows.append(report.conversion_json(result))
            if not as_json:
                console.output().print(report.conversion_line(result), markup=False)
    if failures and len(paths) > 1:
        summary = BringupError("checkpoint-not-converted", count=failures, total=len(paths), folder=output)
        console.remarks().print(messages.say_error(summary), style="red", markup=False)
    if as_json:
        console.print_json({"schema": "bringup/convert/1", "checkpoints": rows})
    return int(failures > 0)


class _Progress:
    """A bar on a terminal's standard error, as soon as the work takes over two seconds."""

    def __init__(self, total: int) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        from bringup.report import console
        from bringup.report.messages import say

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._terminal = console.remarks()
        self._bar = Progress(*columns, console=self._terminal, transient=True)
        self._task = self._bar.add_task(say("checkpoints.progress"), total=total)
        self._timer = threading.Timer(2.0, self._bar.start)
        self._timer.daemon = True

    def __enter__(self) -> _Progress:
        if self._terminal.is_terminal:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._bar.live.is_started:
            self._bar.stop()

    def advance(self, count: int) -> None:
        self._bar.advance(self._task, count)
