"""The terminal: results go to standard output, progress and remarks to standard error."""

from __future__ import annotations

import codecs
import io
import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Names of files and lines of logs may hold sequences that steer a terminal: shown, not sent.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (9, 10)}
_CONTROLS_IN_JSON = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
# What takes the place of our own marks in an encoding that lacks them.
_PLAIN = {
    "✓": "v",
    "✗": "x",
    "–": "-",
    "…": "...",
    "→": "->",
    "·": "-",
    "«": '"',
    "»": '"',
    "█": "#",
    "░": ".",
}


class _Terminal(Console):
    """A console to which no text that was read can send control characters."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(segment.text.translate(_CONTROLS), segment.style)


def output() -> Console:
    """Console for results. Plain and 80 columns wide where standard output is no terminal."""
    return _Terminal(width=None if sys.stdout.isatty() else 80, highlight=False, soft_wrap=False)


def remarks() -> Console:
    """Console for progress, warnings and errors (standard error)."""
    return _Terminal(stderr=True, highlight=False)


def write_in_any_encoding() -> None:
    """Let a character that the terminal's encoding lacks be replaced, instead of ending the command."""
    codecs.register_error("bringup", _in_place_of)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="bringup")


def _in_place_of(error: UnicodeError) -> tuple[str | bytes, int]:
    """The codec's answer for one character."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # A byte of a file's name that is no UTF-8, as it came.
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return _PLAIN.get(character, "?"), error.start + 1


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on standard output, readable by a program and by a person."""
    # JSON is UTF-8 by its specification: in any other encoding every letter beyond ASCII is escaped.
    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    text = json.dumps(document, indent=2, ensure_ascii=not is_utf8).translate(_CONTROLS_IN_JSON)
    # Names of files and keys may hold half of a surrogate pair, which has no UTF-8: as JSON's escape.
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
