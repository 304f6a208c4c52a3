"""`bringup env`: the environments that bringup made."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The environments that bringup made.")

_Name = Annotated[str, typer.Argument(help="Name of an environment, for example prostate-ssl.")]


@group.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Names and folders."""
    from bringup.report import console
    from bringup.steps.environments import current, names

    rows = [(name, current(name)) for name in names()]
    if as_json:
        listed = [{"name": name, "path": str(slot.target.root) if slot else None} for name, slot in rows]
        console.print_json({"schema": "bringup/environments/1", "environments": listed})
        return
    for name, slot in rows:
        typer.echo(f"{name:24} {slot.target.root if slot else '–'}")


@group.command()
def path(name: _Name) -> None:
    """The environment's folder."""
    from bringup.steps.environments import find

    typer.echo(find(name).target.root)


@group.command()
def activate(name: _Name) -> None:
    """The command that activates it in this shell: eval "$(bringup env activate NAME)"."""
    import shlex

    from bringup.steps.environments import find

    root = find(name).target.root
    if os.name == "nt":
        typer.echo(f'& "{root / "Scripts" / "Activate.ps1"}"')
    else:
        typer.echo(f"source {shlex.quote(str(root / 'bin' / 'activate'))}")


@group.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context, name: _Name) -> None:
    """Run a command in it: bringup env run NAME -- python script.py."""
    from bringup.errors import BringupError
    from bringup.steps.environments import find
    from bringup.steps.target import console_command

    target = find(name).target
    words = context.args or ["python"]
    try:
        code = _call(console_command(target, words), target.variables())
    except (FileNotFoundError, PermissionError) as error:
        raise BringupError("no-such-command", exit_code=2, name=words[0], text=error.strerror) from error
    raise typer.Exit(code if code >= 0 else 128 - code)  # A signal's number, as shells give it.


def _call(words: Sequence[str], variables: Mapping[str, str]) -> int:
    """The command's exit status. SIGTERM is the command's to heed: it may have something to save."""
    process = subprocess.Popen(list(words), env=variables)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except BaseException:
        process.kill()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@group.command()
def export(name: _Name) -> None:
    """Its packages as a requirements file with hashes."""
    from bringup.plan.model import read_plan
    from bringup.steps.environments import find
    from bringup.steps.installers import requirement_lines

    typer.echo(requirement_lines(read_plan(find(name).plan).packages), nl=False)


@group.command()
def remove(name: _Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete it and its earlier versions."""
    from bringup import state
    from bringup.report.messages import say
    from bringup.steps import environments

    if name in environments.names() and not yes:
        typer.confirm(say("env.remove", path=state.environments() / name), abort=True)
    for folder in environments.remove(name):
        typer.echo(folder)
