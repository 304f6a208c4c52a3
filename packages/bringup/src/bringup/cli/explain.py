"""`bringup explain`: a pasted error or a build log → what it means, why, and the command that mends it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

_CHUNK = 4 << 20


def command(
    file: Annotated[Path | None, typer.Argument(help="A log; without it, standard input is read.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Explanations as JSON.")] = False,
) -> None:
    """Say what an error text means; exit 1 if nothing in it is known."""
    from bringup.findings.error_texts import explain
    from bringup.report import console
    from bringup.report.explain import explanation_json, print_explanations

    explanations = explain(_read(file))
    if as_json:
        rows = [explanation_json(row) for row in explanations]
        console.print_json({"schema": "bringup/explain/1", "explanations": rows})
    else:
        print_explanations(explanations, console.output())
    raise typer.Exit(0 if explanations else 1)


def _read(file: Path | None) -> Iterator[bytes]:
    from bringup.errors import BringupError

    if file is None or str(file) == "-":
        if sys.stdin.isatty():
            raise BringupError("explain-empty", exit_code=2)
        yield from _chunks(sys.stdin.buffer)
        return
    try:
        with file.open("rb") as stream:
            yield from _chunks(stream)
    except OSError as error:
        raise BringupError("explain-unreadable", exit_code=2, path=file, text=error.strerror) from error


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk
