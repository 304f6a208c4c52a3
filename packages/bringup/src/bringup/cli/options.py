"""Options that several verbs have in common, worded once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bringup.catalog import Catalog
    from bringup.facts.machine import MachineFacts
    from bringup.plan.model import Plan
    from bringup.plan.planner import Wishes
    from bringup.recipes.schema import Recipe

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


def require_writable(file: Path, option: str) -> None:
    """Refuse, before the work that leads to it, a file that could not be written in the end.

    Raises:
        BringupError: `output-unwritable`.
    """
    import tempfile

    from bringup.errors import BringupError

    folder = file.absolute().parent
    while not folder.exists():  # It is made when the file is.
        folder = folder.parent
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if file.exists() and not file.is_file():  # A device would be replaced by the file.
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with tempfile.TemporaryFile(dir=folder):  # Permissions alone don't tell of a read-only file system.
            pass
    except OSError as error:
        named = {"path": file, "text": error.strerror, "option": option}
        raise BringupError("output-unwritable", exit_code=2, **named) from error


def plan_of(
    recipe: str | None,
    project: Path | None,
    env: Path | None,
    machine: MachineFacts,
    catalog: Catalog,
    wishes: Wishes,
) -> tuple[Plan, Recipe]:
    """The plan for a recipe, a project's folder or in place of an environment, and the recipe it follows.

    Raises:
        BringupError: `plan-of-what`, `project-says-nothing`, what planning raises.
    """
    from bringup.errors import BringupError
    from bringup.facts.environment import read_environment
    from bringup.facts.gpus import usable_gpus
    from bringup.facts.project import read_project
    from bringup.plan.adapt import plan_project, plan_wanted
    from bringup.plan.planner import make_plan
    from bringup.plan.wanted import from_environment, require_something
    from bringup.recipes import load as load_recipe

    if sum(given is not None for given in (recipe, project, env)) != 1:
        raise BringupError("plan-of-what", exit_code=2)
    if recipe is not None:
        chosen = load_recipe(recipe)
        return make_plan(chosen, machine, catalog, wishes), chosen
    if project is not None:
        return plan_project(read_project(project.expanduser().absolute()), machine, catalog, wishes)
    assert env is not None
    origin = env.expanduser().absolute()
    gpus = () if wishes.cpu else wishes.gpus or tuple(g.capability for g in usable_gpus(machine.gpus))
    given = read_environment(wishes.overlay, scan=False) if wishes.overlay else None
    shown = (*given.site_packages, *given.paths) if given else ()
    wanted = from_environment(read_environment(origin, scan=bool(gpus)), catalog, gpus, shown)
    require_something(wanted, origin)
    return plan_wanted(wanted, machine, catalog, wishes)
