"""The table of verbs. Each stands in its own file; rooms are imported when a verb runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import typer

VERBS: tuple[str, ...] = (
    "doctor",
    "scan",
    "apply",
    "plan",
    "rollback",
    "undo",
    "up",
    "verify",
    "convert",
    "rebuild",
    "explain",
    "rewrite",
    "image",
    "wsl",
    "clean",
    "monitor",
    "build",
    "fetch",
    "view",
)
GROUPS: tuple[str, ...] = ("env", "recipes", "toolkit")

app = typer.Typer(
    name="bringup",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Facts → findings → plan → steps → proof, for research code on new NVIDIA GPUs.",
    epilog="Everywhere: --lang en|zh (default: the locale's), --debug (show tracebacks).",
)


@app.callback()
def _root() -> None:
    pass


def _verb(name: str) -> Callable[..., Any]:
    command: Callable[..., Any] = importlib.import_module(f"bringup.cli.{name}").command
    return command


for _name in VERBS:
    app.command(_name, no_args_is_help=False)(_verb(_name))
for _name in GROUPS:
    app.add_typer(importlib.import_module(f"bringup.cli.{_name}").group, name=_name)
