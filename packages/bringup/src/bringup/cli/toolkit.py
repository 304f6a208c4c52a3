"""`bringup toolkit`: the CUDA compiler, from wheels into user space, and out again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="CUDA compilers in user space.")

_Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@group.command()
def install(
    version: Annotated[str, typer.Argument(help="13.0 (from wheels) or 12.8 (prints the ways to it).")],
    into: Annotated[Path | None, typer.Option(help="An environment; else bringup's own folder.")] = None,
    find_links: Annotated[list[Path] | None, typer.Option(help="A folder of wheels to use as well.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use no package index.")] = False,
    mirror: Annotated[str | None, typer.Option(help="In place of NVIDIA's archive, in plans.")] = None,
    as_json: _Json = False,
) -> None:
    """Install CUDA 13 from wheels; for an earlier release print the ways to it, and do nothing."""
    from bringup.errors import BringupError
    from bringup.facts.host import read_host
    from bringup.report import console
    from bringup.report import toolkit as report
    from bringup.report.waiting import Waiting
    from bringup.steps.toolkit import wheels
    from bringup.steps.toolkit.pip import Source
    from bringup.steps.toolkit.plans import plan_toolkit, unknown_release

    if version.partition(".")[0].isdigit() and int(version.partition(".")[0]) < 13:
        plan = plan_toolkit(version, read_host(), mirror)
        if as_json:
            console.print_json(report.plan_document(plan))
        else:
            report.print_plan(plan, console.output())
        return
    source = Source(tuple(find_links or ()), offline)
    try:
        with Waiting("toolkit.installing") as waiting:
            if into is not None:
                toolkit, manifest = wheels.install_into_environment(
                    version, into.expanduser().absolute(), source, waiting.now
                )
            else:
                toolkit = wheels.install_into_store(version, source, waiting.now)
                found = wheels.read_manifest(toolkit.root)
                assert found is not None
                manifest = found
    except BringupError as error:
        if error.id != "no-matching-distribution":
            raise
        raise unknown_release(version) from error
    if as_json:
        console.print_json(report.installed_document(toolkit, manifest))
    else:
        report.print_installed(toolkit, manifest, console.output())


@group.command("list")
def list_(
    env: Annotated[Path | None, typer.Option(help="Look into this environment, too.")] = None,
    as_json: _Json = False,
) -> None:
    """Every toolkit whose compiler answers: bringup's own, an environment's, the system's."""
    from bringup.facts.environment import read_environment
    from bringup.facts.toolchains import find_toolkits
    from bringup.report import console
    from bringup.report import toolkit as report
    from bringup.steps.toolkit.wheels import find_in_store, installed_toolkits

    facts = read_environment(env.expanduser(), scan=False) if env else None
    sites = map(Path, (*facts.site_packages, *facts.paths)) if facts else ()
    own = (find_in_store(row.version) for row in installed_toolkits())
    toolkits = [row for row in own if row]
    toolkits += find_toolkits(Path(facts.root) if facts else None, sites)
    if as_json:
        console.print_json(report.listing_document(toolkits))
    else:
        report.print_listing(toolkits, console.output())


@group.command()
def remove(
    version: Annotated[str | None, typer.Argument(help="Only this release of bringup's own.")] = None,
    env: Annotated[Path | None, typer.Option("--from", help="What was installed into this one.")] = None,
    system: Annotated[bool, typer.Option("--system", help="List the system's own, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: _Json = False,
) -> None:
    """Name every package and folder, ask, then remove; only what bringup put there.

    With --system the system's own toolkits are named with the commands that remove them; those a person runs.
    """
    from bringup.report import console
    from bringup.report import toolkit as report
    from bringup.report.messages import say
    from bringup.steps.toolkit.remove import carry_out, plan_removal

    removal = plan_removal(version, env.expanduser().absolute() if env else None, system)
    if not as_json:
        report.print_removal(removal, console.output())
    asked = yes or (sys.stdin.isatty() and not as_json)
    if not removal.empty and asked:
        if not yes:
            typer.confirm(say("toolkit.confirm"), abort=True)
        carry_out(removal)
    done = asked and not removal.empty
    if as_json:
        console.print_json(report.removal_document(removal, done))
    elif not removal.empty:
        console.output().print(say("toolkit.removed" if done else "toolkit.only-plan"), markup=False)
