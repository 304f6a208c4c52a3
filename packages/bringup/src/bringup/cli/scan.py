"""`bringup scan PATH…`: what each shared object, wheel or environment carries, and what runs on which GPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bringup.report.scan import Chip


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="Files, wheels, folders, environments, `docker save` archives."
        ),
    ],
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="Judge for this GPU: a name («RTX 5090») or sm_120; several times for several."),
    ] = None,
    all_files: Annotated[bool, typer.Option("--all", help="List files without CUDA code, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Read machine code and PTX by architecture, without running or unpacking anything.

    Exit 0: every path that is named was read; what was found below it and could not be read is listed.
    2: wrong usage. 3: a path that is named could not be read, or not whole.
    """
    from bringup.binaries.report import BinaryReport, Unreadable, scan_path
    from bringup.errors import BringupError
    from bringup.report import console
    from bringup.report import scan as report
    from bringup.report.messages import say

    paths = [path.expanduser() for path in paths]
    for path in paths:
        if not path.exists():
            raise BringupError("nothing-to-scan", exit_code=2, path=path)
    chips = _chips(gpu or [])
    started = time.perf_counter()
    files: list[BinaryReport] = []
    unreadable: list[Unreadable] = []
    with report.ScanProgress() as progress:
        for path in dict.fromkeys(paths):
            for row in scan_path(path, progress.on_file):
                if isinstance(row, Unreadable):
                    unreadable.append(row)
                else:
                    files.append(row)
    seconds = time.perf_counter() - started
    if as_json:
        console.print_json(report.scan_document(files, unreadable, chips))
    else:
        report.print_scan(console.output(), paths, files, unreadable, chips, seconds, all_files)
    damaged = {row.path for row in report.not_read(files, unreadable)}
    failed = [path for path in dict.fromkeys(map(str, paths)) if path in damaged]
    if failed:
        shown = {"count": len(failed), "named": len(set(paths)), "paths": ", ".join(failed)}
        console.remarks().print(say("scan.named-unreadable", **shown), style="red", markup=False)
        raise typer.Exit(3)


def _chips(names: list[str]) -> tuple[Chip, ...]:
    """The GPUs to judge for: those named, else those of this machine."""
    from bringup.report.scan import Chip

    if names:
        from bringup.cli.gpu_names import find_gpus

        return tuple(Chip(name, capability) for name, capability in find_gpus(names))
    from bringup.facts.gpus import read_gpus, usable_gpus

    survey = read_gpus()
    cuda = survey.driver.cuda if survey.driver else None
    return tuple(dict.fromkeys(Chip(row.name, row.capability, cuda) for row in usable_gpus(survey)))
