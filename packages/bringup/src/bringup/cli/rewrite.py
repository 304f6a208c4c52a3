"""`bringup rewrite DIR`: every `torch.load` says `weights_only`, on the syntax tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of Python code, or one file.")],
    diff: Annotated[bool, typer.Option("--diff", help="Show the change; write nothing.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last rewriting of DIR back.")] = False,
    allow_pickle: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE:LINE", help="Write weights_only=False for this one call; may be repeated."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Add `weights_only=True` where it is missing; list the calls whose checkpoint needs converting first.

    Scripts and notebooks. Everything else in a file stays byte for byte.
    """
    from bringup.errors import BringupError
    from bringup.report import console
    from bringup.report import rewrite as report
    from bringup.report.waiting import Waiting
    from bringup.steps.rewrite import rewrite
    from bringup.steps.rewrite import undo as take_back

    if undo:
        if diff or allow_pickle:
            raise BringupError("rewrite-usage", exit_code=2)
        undone = take_back(folder)
        if as_json:
            console.print_json(report.undone_document(undone))
        else:
            report.print_undone(undone, console.output())
        raise typer.Exit(1 if undone.changed else 0)
    with Waiting("rewrite.progress") as waiting:
        result = rewrite(
            folder, allow_pickle or (), write=not diff, on_file=lambda path: waiting.now(path.name)
        )
    if as_json:
        console.print_json(report.document(result))
    elif diff:
        report.print_diff(result)
        report.print_summary(result, console.remarks())
    else:
        report.print_summary(result, console.output())
