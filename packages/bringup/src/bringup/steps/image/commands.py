"""Command lines as people type them: cmd.exe, PowerShell and bash. Pure text in, text out.

Sources: Microsoft, «Parsing C command-line arguments» (backslashes and quotes), «about_Quoting_Rules» and
«about_Parsing» (PowerShell); POSIX.1-2017, Shell Command Language 2.2 (quoting).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Shell = Literal["cmd", "powershell", "bash"]
SHELLS: tuple[Shell, ...] = ("cmd", "powershell", "bash")
SUFFIXES: dict[Shell, str] = {"cmd": ".cmd", "powershell": ".ps1", "bash": ".sh"}

_LINE = 100
_CMD_PLAIN = re.compile(r"[A-Za-z0-9_./:\\+@=,-]+")
_POWERSHELL_PLAIN = re.compile(r"[A-Za-z0-9_./:\\][A-Za-z0-9_./:\\+=-]*|--?[A-Za-z0-9][A-Za-z0-9_=/-]*")
_CMD_SPECIAL = re.compile(r'([()%!^"<>&|])')
# PowerShell takes typographic quotes for quotes.
_SINGLE_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")
_DOUBLE_QUOTED_SPECIAL = re.compile('([`$"\u201c\u201d\u201e])')


@dataclass(frozen=True)
class Here:
    """A path below the folder in which the command is typed (`%cd%`, `${PWD}`, `$PWD`); "": that folder."""

    path: str = ""


@dataclass(frozen=True)
class Beside:
    """The folder in which the script itself lies: `%~dp0`, `$PSScriptRoot`, `$(dirname "$0")`."""


@dataclass(frozen=True)
class Rest:
    """Whatever else the script was given: `%*`, `@args`, `"$@"`. At the prompt: the word ARGUMENTS."""


Part = str | Here | Beside
Word = str | tuple[Part, ...] | Rest
_REST: dict[Shell, str] = {"cmd": "%*", "powershell": "@args", "bash": '"$@"'}


def _parts(word: Word) -> tuple[Part, ...]:
    if isinstance(word, Rest):
        return ()
    return (word,) if isinstance(word, str) else word


def _text(word: Word) -> str:
    return "".join(part for part in _parts(word) if isinstance(part, str))


def _refuse_newline(text: str, shell: Shell) -> None:
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError(f"{shell} cannot be given an argument with a line break or a zero byte")


def _c_runtime(text: str) -> str:
    """Escape for the parser of C programs on Windows, without the quotes around."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return re.sub(r"(\\+)$", r"\1\1", escaped)


def quote_bash(word: Word) -> str:
    """One word for bash and any POSIX shell."""
    quoted = []
    for part in _parts(word):
        if isinstance(part, Here):
            inside = part.path.replace("\\", "/")
            quoted.append('"$PWD"' + (shlex.quote(f"/{inside}") if inside else ""))
        elif isinstance(part, Beside):
            quoted.append('"$(dirname "$0")"')
        elif part or word == "":
            quoted.append(shlex.quote(part))
    return "".join(quoted)


def quote_powershell(word: Word) -> str:
    """One word for PowerShell, 5.1 and later, when it is handed to a program.

    Embedded quotes are written `\\"`, which is right for 5.1 and for later versions in their legacy mode;
    `script` chooses that mode wherever it matters.
    """
    text = _text(word)
    _refuse_newline(text, "powershell")
    if isinstance(word, str):
        if _POWERSHELL_PLAIN.fullmatch(word):
            return word
        if not word:
            return "'\"\"'"
        escaped = re.sub(r'(\\*)"', r'\1\1\\"', word)
        if re.search(r"\s", word):
            # The legacy mode puts quotes around a word with spaces and leaves its last backslashes alone.
            escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
        return "'" + _SINGLE_QUOTES.sub(r"\1\1", escaped) + "'"
    pieces = []
    for part in _parts(word):
        if isinstance(part, Here):
            inside = part.path.replace("/", "\\")
            escaped = _DOUBLE_QUOTED_SPECIAL.sub(r"`\1", inside)
            pieces.append("${PWD}" + (f"\\{escaped}" if inside else ""))
        elif isinstance(part, Beside):
            pieces.append("$PSScriptRoot")
        else:
            pieces.append(_DOUBLE_QUOTED_SPECIAL.sub(r"`\1", re.sub(r'(\\*)"', r'\1\1\\"', part)))
    return '"' + "".join(pieces) + '"'


def quote_cmd(word: Word, batch: bool = False) -> str:
    """One word for cmd.exe.

    Args:
        batch: for a .cmd file, where `%` is doubled; at the prompt nothing can escape it inside quotes.
    """
    text = _text(word)
    _refuse_newline(text, "cmd")
    if isinstance(word, str):
        if _CMD_PLAIN.fullmatch(word):
            return word
        if '"' in word:
            # cmd.exe knows no escaped quote: with every special sign escaped it sees no quotes at all.
            escaped = _CMD_SPECIAL.sub(r"^\1", f'"{_c_runtime(word)}"')
            return escaped.replace("^%", "%%") if batch else escaped
        quoted = f'"{_c_runtime(word)}"'
        return quoted.replace("%", "%%") if batch else quoted
    if '"' in text:
        raise ValueError("cmd cannot be given a quote beside the current folder")
    pieces = []
    for part in _parts(word):
        if isinstance(part, Here):
            inside = part.path.replace("/", "\\")
            pieces.append("%cd%" + (f"\\{inside.replace('%', '%%') if batch else inside}" if inside else ""))
        elif isinstance(part, Beside):
            pieces.append("%~dp0.")
        else:
            pieces.append(part.replace("%", "%%") if batch else part)
    return '"' + "".join(pieces) + '"'


def quote(word: Word, shell: Shell, batch: bool = False) -> str:
    """One word for a shell; `batch`: as it stands in a script."""
    if isinstance(word, Rest):
        return _REST[shell] if batch else "ARGUMENTS"
    if shell == "bash":
        return quote_bash(word)
    if shell == "powershell":
        return quote_powershell(word)
    return quote_cmd(word, batch)


_CONTINUED: dict[Shell, str] = {"cmd": " ^\n  ", "powershell": " `\n  ", "bash": " \\\n  "}


def _groups(words: Sequence[str], raw: Sequence[Word]) -> list[str]:
    """Words that stay on one line: an option and its value."""
    groups: list[str] = []
    takes_value = False
    for quoted, word in zip(words, raw, strict=True):
        is_option = isinstance(word, str) and word.startswith("-") and len(word) > 1
        if groups and takes_value and not is_option:
            groups[-1] += f" {quoted}"
            takes_value = False
        else:
            groups.append(quoted)
            takes_value = is_option and "=" not in _text(word)
    return groups


def command_line(words: Sequence[Word], shell: Shell, batch: bool = False) -> str:
    """A command; longer than 100 signs, it is continued on further lines (`^`, a backtick, a backslash)."""
    quoted = [quote(word, shell, batch) for word in words]
    if shell == "powershell" and quoted[0].startswith(("'", '"')):
        quoted[0] = f"& {quoted[0]}"
    line = " ".join(quoted)
    if len(line) <= _LINE:
        return line
    lines: list[str] = []
    for group in _groups(quoted, words):
        if lines and len(lines[-1]) + len(group) < _LINE - 20:
            lines[-1] += f" {group}"
        else:
            lines.append(group)
    return _CONTINUED[shell].join(lines)


def _assignment(name: str, value: str, shell: Shell) -> str:
    if shell == "bash":
        return f"export {name}={shlex.quote(value)}"
    if shell == "powershell":
        return f"$env:{name} = '" + _SINGLE_QUOTES.sub(r"\1\1", value) + "'"
    return f'set "{name}={value.replace("%", "%%")}"'


def _needs_legacy_mode(commands: Sequence[Sequence[Word]]) -> bool:
    texts = [_text(word) for words in commands for word in words if not isinstance(word, Rest)]
    return any(text == "" or '"' in text or re.search(r"\s.*\\$", text) for text in texts)


def script(
    commands: Sequence[Sequence[Word]], shell: Shell, variables: Mapping[str, str] | None = None
) -> str:
    """A script file that runs the commands one after the other and stops at the first that fails.

    Line endings are those of the shell's system.
    """
    settings = [_assignment(name, value, shell) for name, value in (variables or {}).items()]
    lines = [command_line(words, shell, batch=True) for words in commands]
    if shell == "bash":
        return "\n".join(["#!/bin/sh", "set -eu", *settings, *lines]) + "\n"
    if shell == "powershell":
        head = ["$ErrorActionPreference = 'Stop'"]
        if _needs_legacy_mode(commands):
            head.append("$PSNativeCommandArgumentPassing = 'Legacy'")
        checked = [f"{line}\nif ($LASTEXITCODE) {{ exit $LASTEXITCODE }}" for line in lines]
        return "\r\n".join("\n".join([*head, *settings, *checked]).split("\n")) + "\r\n"
    checked = [f"{line}\nif errorlevel 1 exit /b %errorlevel%" for line in lines]
    return "\r\n".join("\n".join(["@echo off", "setlocal", *settings, *checked]).split("\n")) + "\r\n"
