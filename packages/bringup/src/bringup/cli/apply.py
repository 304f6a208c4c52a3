"""`bringup apply`: a plan, carried out in a new environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bringup.cli import options


def command(
    plan: Annotated[Path, typer.Argument(help="A plan file, as `bringup plan` writes it.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the steps, do nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on (this is what happens anyway).")] = False,
    installer: options.Installer = None,
    find_links: options.FindLinks = None,
    pack: options.Pack = None,
    offline: options.Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")] = False,
) -> None:
    """Make the plan's environment; it is switched in when its proof holds."""
    from bringup.facts.gpus import read_gpus
    from bringup.plan.model import read_plan
    from bringup.report import console
    from bringup.report.messages import say
    from bringup.report.progress import StepDisplay, step_title
    from bringup.report.tables import home_relative, plan_table, proof_table
    from bringup.steps.apply import InstallOptions, apply_plan, validate
    from bringup.steps.installers import progress_text
    from bringup.steps.observer import Silent
    from bringup.steps.verify import read_proof, verify_step

    document = read_plan(plan)
    terminal = console.output()
    links = (*(find_links or ()), *([pack / "wheels"] if pack else ()))
    if dry_run:
        validate(document, links)
        if as_json:
            console.print_json(json.loads(document.model_dump_json(by_alias=True)))
        else:
            terminal.print(plan_table(document))
        return
    asked = verify_step(document).gpus
    if asked and not read_gpus().gpus:
        gpus = ", ".join(map(str, asked))
        console.remarks().print(say("up.no-gpu-to-prove-on", gpus=gpus), markup=False)
    how = InstallOptions(installer, links, offline, pack)
    if as_json:
        applied = apply_plan(document, Silent(), how)
    else:
        with StepDisplay(terminal, step_title, progress_text) as display:
            applied = apply_plan(document, display, how)
    proof = applied.proof or read_proof(applied.slot.proof)
    if as_json:
        seconds = {name: round(value, 3) for name, value in applied.seconds.items()}
        result = {"schema": "bringup/applied/1", "environment": str(applied.slot.target.root)}
        console.print_json(result | {"reused": applied.reused, "seconds": seconds, "proof": proof.to_json()})
        return
    terminal.print(proof_table(proof))
    terminal.print(say("up.environment", path=home_relative(applied.slot.target.root)), markup=False)
