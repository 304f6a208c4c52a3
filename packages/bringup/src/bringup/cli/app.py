"""The table of verbs. Each stands in its own file; rooms are imported when a verb runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
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


def application(arguments: Sequence[str]) -> typer.Typer:
    """The command line: every verb, or the one that the arguments begin with (the others cost start-up)."""
    app = typer.Typer(
        name="bringup",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        help="Facts → findings → plan → steps → proof, for research code on new NVIDIA GPUs.",
        epilog="Everywhere: --lang en|zh (default: the locale's), --debug (show tracebacks).",
    )
    app.callback()(_root)
    asked = arguments[0] if arguments and arguments[0] in (*VERBS, *GROUPS) else None
    for name in VERBS:
        if asked in (None, name):
            app.command(name, no_args_is_help=False)(_verb(name))
    for name in GROUPS:
        if asked in (None, name):
            app.add_typer(importlib.import_module(f"bringup.cli.{name}").group, name=name)
    return app


def _root() -> None:
    pass


def _verb(name: str) -> Callable[..., Any]:
    command: Callable[..., Any] = importlib.import_module(f"bringup.cli.{name}").command
    return command
