"""`bringup undo`: take back what an apply began."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    name: Annotated[str, typer.Argument(help="Name of an environment.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete an environment's unfinished and earlier versions; the one in use stays."""
    from bringup import state
    from bringup.report.messages import say
    from bringup.steps import environments
    from bringup.steps.apply import undo

    if name not in environments.names():
        environments.find(name)
    if not yes:
        typer.confirm(say("env.undo", path=state.environments() / name), abort=True)
    for folder in undo(name):
        typer.echo(folder)
