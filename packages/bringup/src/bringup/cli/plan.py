"""`bringup plan`: the repair, as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bringup.cli import options


def command(
    recipe: Annotated[str | None, typer.Argument(help="A built-in recipe's name, or a recipe file.")] = None,
    project: Annotated[Path | None, typer.Option(help="Plan for a project's folder.")] = None,
    env: Annotated[Path | None, typer.Option(help="Plan a new environment in place of this one.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The plan file to write.")] = Path(
        "plan.toml"
    ),
    gpu: options.Gpus = None,
    cpu: options.Cpu = False,
    profile: options.Profile = None,
    prefer: options.Prefer = None,
    source: options.SourceFolder = None,
    weights: options.WeightsFolder = None,
    models: options.ModelsFolder = None,
    pack: options.Pack = None,
    python: Annotated[str | None, typer.Option(help="This interpreter (a path or an exact version).")] = None,
    find_links: options.FindLinks = None,
    overlay: options.Overlay = None,
    offline: options.Offline = False,
    torch_from_source: Annotated[
        bool, typer.Option("--torch-from-source", help="Compile PyTorch itself, for the GPU's chip.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what was rejected, and why.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The plan as JSON on standard output.")] = False,
) -> None:
    """Choose what to install for a workload and write it down; nothing is installed."""
    from bringup.catalog import load as load_catalog
    from bringup.cli.gpu_names import named_gpus
    from bringup.facts.machine import read_machine
    from bringup.plan.model import write_plan
    from bringup.plan.planner import Wishes
    from bringup.plan.sequence import Given
    from bringup.report import console
    from bringup.report.messages import say
    from bringup.report.tables import choices_table, limits, plan_table

    options.require_writable(output, "--output")
    wishes = Wishes(
        gpus=named_gpus(gpu or []),
        cpu=cpu,
        profile=profile,
        python=python,
        find_links=(*(find_links or ()), *([pack / "wheels"] if pack else ())),
        offline=offline,
        overlay=overlay,
        given=Given(source, weights, models),
        prefer=options.checked_way(prefer),
        torch_from_source=torch_from_source,
    )
    with console.remarks().status(say("up.planning")):
        plan, chosen = options.plan_of(recipe, project, env, read_machine(), load_catalog(), wishes)
    write_plan(plan, output)
    if as_json:
        console.print_json(json.loads(plan.model_dump_json(by_alias=True)))
        return
    terminal = console.output()
    terminal.print(say("up.plan", path=output), style="bold", markup=False)
    terminal.print(choices_table(plan, explain))
    for text in limits(chosen):
        terminal.print(text, markup=False)
    terminal.print()
    terminal.print(plan_table(plan))
