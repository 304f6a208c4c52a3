"""Whether a fix is a command that can be typed as it stands: options and words, not whether it succeeds."""

from __future__ import annotations

import contextlib
import re
import shlex

from pip._internal.commands import create_command
from typer.main import get_command

from bringup.cli.app import application

_PROGRAMS = (
    "apt-file",
    "apt-get",
    "conda",
    "explorer.exe",
    "export",
    "git",
    "nvidia-smi",
    "sed",
    "set",
    "start",
)
_PLACEHOLDER = re.compile(r"\b(?:RECIPE|SRC|DIR|CHECKPOINT|NAME|PATH)\b|…|<")


def assert_can_be_typed(fix: str) -> None:
    """Fail unless every part of the line parses by the program that it calls."""
    assert not _PLACEHOLDER.search(fix), fix
    for part in fix.split(" && "):
        words = shlex.split(part, posix="\\" not in part)
        program, *rest = words[1:] if words[0] == "sudo" else words
        if program == "bringup":
            _parse_bringup(rest)
        elif rest[:2] == ["-m", "pip"]:
            _parse_pip(rest[2:])
        elif program == "portable-kernels":
            assert (rest[0], rest[1], rest[3]) == ("install", "--shim", "--env"), fix
        else:
            assert program in _PROGRAMS, fix


def _parse_bringup(words: list[str]) -> None:
    """Parse as the command line does; nothing is carried out."""
    group = get_command(application(words))
    context = group.make_context("bringup", list(words))
    while hasattr(group, "resolve_command"):
        name, command, words = group.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(words), parent=context)
        group = command


def _parse_pip(words: list[str]) -> None:
    command = create_command(words[0])
    with contextlib.redirect_stderr(None):
        options, arguments = command.parse_args(words[1:])
    assert arguments or options is None, words
