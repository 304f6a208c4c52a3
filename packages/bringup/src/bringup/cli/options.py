"""Options that several verbs have in common, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Gpus = Annotated[list[str] | None, typer.Option("--gpu", help="Plan for this GPU instead of those here.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Use the CPU although a GPU is here.")]
Profile = Annotated[str | None, typer.Option(help="A profile of the recipe.")]
Installer = Annotated[str | None, typer.Option(help="pip or uv.")]
FindLinks = Annotated[list[Path] | None, typer.Option(help="A folder of wheels to use as well.")]
Overlay = Annotated[Path | None, typer.Option(help="Use this environment's torch as it is.")]
Offline = Annotated[bool, typer.Option("--offline", help="Ask nothing of the network.")]
Prefer = Annotated[
    str | None, typer.Option(metavar="wheel|portable|build", help="Try this way first for every extension.")
]
SourceFolder = Annotated[Path | None, typer.Option("--source", help="A local copy of the workload's source.")]
WeightsFolder = Annotated[Path | None, typer.Option("--weights", help="A folder that holds its weights.")]
ModelsFolder = Annotated[Path | None, typer.Option("--models", help="A folder of its old pickled models.")]
Pack = Annotated[Path | None, typer.Option("--from", help="A folder that `bringup fetch` made.")]


def checked_way(given: str | None) -> str | None:
    """The way that was asked for.

    Raises:
        BringupError: `unknown-way`.
    """
    from bringup.errors import BringupError

    if given not in (None, "wheel", "portable", "build"):
        raise BringupError("unknown-way", exit_code=2, given=given)
    return given
