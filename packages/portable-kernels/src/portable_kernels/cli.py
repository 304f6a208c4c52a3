"""`portable-kernels install|uninstall|list|check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from portable_kernels.errors import KernelCompilationError, ShimError

app = typer.Typer(
    name="portable-kernels",
    help="Drop-in replacements for compiled CUDA extensions: install their shims, check their kernels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

ShimNames = Annotated[
    str, typer.Option("--shim", help="Names, separated by commas: torch_scatter,torchmcubes.")
]
Env = Annotated[
    Path | None, typer.Option("--env", help="The environment: its Python or its folder. Default: this one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a document for programs.")]


def _fail(error: Exception) -> typer.Exit:
    """Print one paragraph; exit 1."""
    _err.print(str(error), style="red", soft_wrap=True, markup=False)
    return typer.Exit(1)


@app.callback(invoke_without_command=True)
def main(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Serve every verb."""
    if show_version:
        typer.echo(version("portable-kernels"))
        raise typer.Exit


@app.command("install")
def install_command(
    shim: ShimNames,
    env: Env = None,
    force: Annotated[bool, typer.Option("--force", help="Also in place of an original that works.")] = False,
) -> None:
    """Put shims into an environment, under the originals' names and versions."""
    from portable_kernels.shims import Environment, install, named_shims

    try:
        shims = named_shims(shim.split(","))
        before = install(Environment(env), shims, force)
    except ShimError as error:
        raise _fail(error) from None
    for state in before:
        instead = ""
        if state.state == "original":
            instead = (
                f" in place of {state.version}, which uninstall brings back"
                if state.replaced
                else f" over {state.version} of the environment below, which stays there"
            )
        _out.print(f"Installed {state.shim.distribution} {state.shim.shim_version}{instead}.", soft_wrap=True)


@app.command("uninstall")
def uninstall_command(shim: ShimNames, env: Env = None) -> None:
    """Take shims out again, and put back what they replaced."""
    from portable_kernels.shims import Environment, named_shims, uninstall

    try:
        after = uninstall(Environment(env), named_shims(shim.split(",")))
    except ShimError as error:
        raise _fail(error) from None
    for state in after:
        back = f"; {state.version} is back" if state.state == "original" else ""
        _out.print(f"Removed the shim of {state.shim.distribution}{back}.", soft_wrap=True)


@app.command("list")
def list_command(env: Env = None, as_json: AsJson = False) -> None:
    """Show every shim, and what stands under its name in an environment."""
    from portable_kernels.shims import Environment, all_shims, states

    try:
        rows = states(Environment(env), all_shims())
    except ShimError as error:
        raise _fail(error) from None
    if as_json:
        document = [
            {
                "name": row.shim.distribution,
                "version": row.shim.version,
                "import_names": row.shim.import_names,
                "original_licence": row.shim.original_licence,
                "original_url": row.shim.original_url,
                "state": row.state,
                "installed": row.version,
                "replaced": row.replaced,
            }
            for row in rows
        ]
        typer.echo(json.dumps({"schema": "portable-kernels/list/1", "shims": document}, indent=2))
        return
    table = Table(Column("shim", no_wrap=True), "version", "here", "original's licence")
    words = {"absent": "–", "shim": "shim", "original": "original", "unmanaged": "files of no distribution"}
    for row in rows:
        here = words[row.state] + (f" {row.version}" if row.version else "")
        here += f" (keeps {row.replaced})" if row.replaced else ""
        table.add_row(row.shim.distribution, row.shim.version, here, row.shim.original_licence)
    _out.print(table)


@app.command("check")
def check_command(
    chip: Annotated[
        list[str] | None,
        typer.Option(
            "--chip", help="Compile for this chip (sm_120), again for more. Default: the GPUs here."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compile every op, launch it where there is a GPU, and compare it with its reference.

    Exit 1 on a failure.
    """
    import torch

    from portable_kernels.checks import all_cases, default_chips, run_case
    from portable_kernels.compiler import known_chips
    from portable_kernels.compiler.nvrtc import chip_number

    try:
        for name in chip or ():
            chip_number(name)
        chips = tuple(chip) if chip and known_chips() else default_chips()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--chip") from None
    except KernelCompilationError as error:
        raise _fail(error) from None
    launch = torch.cuda.is_available() and not chip
    device = torch.device("cuda", torch.cuda.current_device()) if launch else None
    results = []
    with _err.status("compiling") as status:
        for case in all_cases():
            status.update(case.op)
            results.append(run_case(case, chips, device))
    failed = any(result.error for result in results)
    if as_json:
        document = {
            "schema": "portable-kernels/check/1",
            "device": torch.cuda.get_device_name(device) if device else None,
            "chips": chips,
            "ok": not failed,
            "ops": [asdict(result) for result in results],
        }
        typer.echo(json.dumps(document, indent=2))
        raise typer.Exit(int(failed))
    where = torch.cuda.get_device_name(device) if device else f"no GPU; compiled for {' '.join(chips)}"
    table = Table("op", "compiled", "first use", "difference", "", title=where, title_justify="left")
    for result in results:
        table.add_row(
            result.op,
            f"{result.compile_seconds:.2f} s",
            "–" if result.first_use_seconds is None else f"{result.first_use_seconds:.2f} s",
            "–" if result.difference is None else f"{result.difference:.1e}",
            Text(result.error.splitlines()[0], style="red") if result.error else Text("ok", style="green"),
        )
    _out.print(table)
    raise typer.Exit(int(failed))
