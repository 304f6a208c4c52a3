"""`bringup clean`: intermediate files and images, listed first, deleted only after a yes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bringup.steps.clean.items import Item


def command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIR]...", help="Folders of the manual way; default: the current one."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document; deletes only with --yes.")
    ] = False,
) -> None:
    """Our own caches, logs, half-finished and superseded environments; and the manual way's leavings.

    Environments in use, runs, toolkits and the finished image stay. Exit 1 if something could not be deleted.
    """
    from bringup.errors import BringupError
    from bringup.report import clean as report
    from bringup.report import console
    from bringup.report.messages import say
    from bringup.report.waiting import Waiting
    from bringup.steps.clean.manual import manual_images, manual_items
    from bringup.steps.clean.own import own_items

    for folder in folders or ():
        if not folder.is_dir():
            raise BringupError("clean-no-folder", exit_code=2, path=folder)
    with Waiting("clean.looking"):
        places = dict.fromkeys(folder.resolve() for folder in folders or [Path.cwd()])
        items = [
            *own_items(),
            *(item for folder in places for item in manual_items(folder)),
            *manual_images(),
        ]
    terminal = console.output()
    if not as_json:
        report.print_items(items, terminal)
    failures = _delete(items) if items and (yes or _agreed(as_json)) else None
    if as_json:
        console.print_json(report.document(items, failures))
    elif failures is not None:
        report.print_outcome(items, failures, terminal)
    elif items and not sys.stdin.isatty():
        terminal.print(say("clean.ask-nobody"), markup=False)
    raise typer.Exit(1 if failures else 0)


def _agreed(as_json: bool) -> bool:
    from bringup.report.messages import say

    return not as_json and sys.stdin.isatty() and typer.confirm(say("clean.question"))


def _delete(items: list[Item]) -> dict[Item, str]:
    """Delete one after the other; what is in use or was changed stays, with the reason."""
    from bringup.steps.clean.items import delete
    from bringup.steps.clean.manual import remove_image
    from bringup.steps.clean.own import held

    failures: dict[Item, str] = {}
    for item in items:
        if item.image is not None:
            failure = remove_image(item)
        elif item.origin == "manual":
            failure = delete(item)
        else:
            with held(item) as free:
                failure = delete(item) if free else "busy"
        if failure:
            failures[item] = failure
    return failures
