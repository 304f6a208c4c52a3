"""What to type where bringup cannot run the container itself: three shells, word for word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bringup.report.image import SHELL_NAMES
from bringup.report.messages import say
from bringup.steps.image.commands import SHELLS, Word, command_line


def typed(commands: Sequence[Sequence[Word]]) -> dict[str, list[str]]:
    """Shell → the commands as they are typed at its prompt."""
    return {shell: [command_line(words, shell) for words in commands] for shell in SHELLS}


def print_commands(
    commands: Sequence[Sequence[Word]], apptainer: Sequence[Sequence[Word]], terminal: Console
) -> None:
    """The commands for cmd.exe, PowerShell and bash, and those for a cluster with Apptainer."""
    for shell in SHELLS:
        terminal.print()
        terminal.print(SHELL_NAMES[shell], style="bold", markup=False)
        for words in commands:
            # Not wrapped: a command is copied as it stands.
            terminal.print(command_line(words, shell), markup=False, soft_wrap=True)
    terminal.print()
    terminal.print(say("participant.apptainer"), style="bold", markup=False)
    for words in apptainer:
        terminal.print(command_line(words, "bash"), markup=False, soft_wrap=True)
    terminal.print()


def document(
    commands: Sequence[Sequence[Word]],
    apptainer: Sequence[Sequence[Word]],
    folder: Path,
    tag: str,
    engine: str | None,
) -> dict[str, Any]:
    """`bringup/participant/1`: what would be run; `engine`: None where none is here."""
    return {
        "schema": "bringup/participant/1",
        "tag": tag,
        "folder": str(folder),
        "engine": engine,
        "ran": False,
        "commands": typed(commands),
        "apptainer": [command_line(words, "bash") for words in apptainer],
    }
