"""`bringup rollback`: back to the environment before."""

from __future__ import annotations

from typing import Annotated

import typer


def command(name: Annotated[str, typer.Argument(help="Name of an environment.")]) -> None:
    """Switch to the environment that was in use before the last apply."""
    from bringup.steps.environments import roll_back

    typer.echo(roll_back(name).target.root)
