"""`bringup fetch`: everything that a workload needs from the network, into a folder to carry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bringup.cli import options

if TYPE_CHECKING:
    from bringup.plan.model import Plan
    from bringup.plan.planner import Wishes
    from bringup.recipes.schema import Recipe


def command(
    recipe: Annotated[str, typer.Argument(help="A built-in recipe's name, or a recipe file.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to fill.")],
    gpu: options.Gpus = None,
    cpu: options.Cpu = False,
    profile: options.Profile = None,
    prefer: options.Prefer = None,
    python: Annotated[str | None, typer.Option(help="For this interpreter (a path or a version).")] = None,
    source: options.SourceFolder = None,
    weights: options.WeightsFolder = None,
    find_links: options.FindLinks = None,
    check: Annotated[bool, typer.Option("--check", help="Only compare DIR with its manifest.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The manifest as JSON on standard output.")] = False,
) -> None:
    """Pack sources, wheels and weights on a connected machine, for `up RECIPE --from DIR --offline`."""
    from bringup.cli.gpu_names import named_gpus
    from bringup.errors import BringupError
    from bringup.plan.planner import Wishes
    from bringup.plan.sequence import Given
    from bringup.recipes import load as load_recipe

    chosen = load_recipe(recipe)
    folder = to.expanduser().absolute()
    if check:
        return _check(folder, as_json)
    if folder.exists() and not folder.is_dir():
        raise BringupError("pack-is-a-file", exit_code=2, path=folder)
    wishes = Wishes(
        gpus=named_gpus(gpu or []),
        cpu=cpu,
        profile=profile,
        python=python,
        find_links=tuple(find_links or ()),
        given=Given(None, weights),
        prefer=options.checked_way(prefer),
    )
    _fill(chosen, recipe, folder, wishes, source, as_json)
    return None


def _check(folder: Path, as_json: bool) -> None:
    from bringup.report import console
    from bringup.report.fetch import pack_lines
    from bringup.report.messages import say
    from bringup.report.waiting import Waiting
    from bringup.steps.packing.manifest import check_pack

    with Waiting("fetch.checking"):
        manifest = check_pack(folder, thoroughly=True)
    if as_json:
        console.print_json(manifest.model_dump(mode="json", by_alias=True))
        return
    for line in [*pack_lines(manifest), say("fetch.whole", count=len(manifest.files))]:
        console.output().print(line, markup=False)


def _fill(
    recipe: Recipe, given_name: str, folder: Path, wishes: Wishes, source: Path | None, as_json: bool
) -> None:
    from bringup.catalog import load as load_catalog
    from bringup.facts.machine import read_machine
    from bringup.plan.planner import make_plan
    from bringup.report import console, fetch
    from bringup.report.messages import say, say_error
    from bringup.report.progress import StepDisplay
    from bringup.report.tables import plan_table
    from bringup.steps.installers import progress_text
    from bringup.steps.packing.pack import fill_pack

    with console.remarks().status(say("up.planning")):
        plan = make_plan(recipe, read_machine(), load_catalog(), wishes)
    _say_licences(recipe, plan)
    terminal = console.remarks() if as_json else console.output()
    if not as_json:
        terminal.print(plan_table(plan))
    with StepDisplay(terminal, fetch.part_title, progress_text) as display:
        packed = fill_pack(plan, folder, display, say_error, wishes.find_links, source)
    if as_json:
        console.print_json(fetch.document(packed))
    else:
        profile = f" --profile {wishes.profile}" if wishes.profile else ""
        command = f"bringup up {given_name} --from {folder} --offline{profile}"
        fetch.print_packed(packed, command, terminal)
    if packed.lacking:
        sys.stdout.flush()
        raise typer.Exit(1)


def _say_licences(recipe: Recipe, plan: Plan) -> None:
    """Licences are shown before anything is fetched."""
    from bringup.plan.steps import BuildExtension, FetchSource
    from bringup.report import console
    from bringup.report.messages import say

    sources = [step.source if isinstance(step, BuildExtension) else step for step in plan.steps]
    rows = [(step.repository, step.licence) for step in sources if isinstance(step, FetchSource)]
    rows += [(row.repository or row.url or row.name, row.licence) for row in recipe.weights]
    for origin, licence in dict.fromkeys(rows):
        if licence:
            text = say("fetch.licence", origin=origin, licence=licence)
            console.remarks().print(text, markup=False, soft_wrap=True)
