"""From an error text back to the finding: one pass over a log of any size."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LONGEST_LINE = 2000
_MOST_EXCERPT = 300
# A piece of the log that stays in the processor's cache is searched for all literals before the next.
_PIECE = 1 << 18
_WORTH_SHARING = 32 << 20


class ErrorText(BaseModel):
    """One kind of error text.

    Attributes:
        id: of the finding; its words stand under `explain.<id>`.
        literals: one of them stands in the line, letter by letter.
        pattern: where given, it must match the line; its named groups are the parameters of the words.
        hides: rows that say less about the same text.
        examples: texts that people really saw.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    literals: Annotated[tuple[str, ...], Field(min_length=1)]
    pattern: str | None = None
    hides: tuple[str, ...] = ()
    examples: Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Explanation:
    """What a text means.

    Attributes:
        line: number of the first line that gave it away, from 1. `excerpt`: that line.
        count: how many lines gave it away.
        parameters: for the words; a name that the text did not tell is "?".
    """

    id: str
    line: int
    excerpt: str
    count: int
    parameters: dict[str, str]


@cache
def error_texts() -> tuple[ErrorText, ...]:
    """All rows, the more telling ones first."""
    text = (resources.files(__package__) / "data" / "error_texts.toml").read_text(encoding="utf-8")
    return tuple(ErrorText.model_validate(row) for row in tomllib.loads(text)["error_texts"])


def _line_around(log: bytes, at: int) -> tuple[int, int]:
    start = log.rfind(b"\n", max(0, at - _LONGEST_LINE), at) + 1
    start = start or max(0, at - _LONGEST_LINE)
    end = log.find(b"\n", at, at + _LONGEST_LINE)
    return start, end if end >= 0 else min(len(log), at + _LONGEST_LINE)


def _present_in(log: bytes) -> set[bytes]:
    """Which of all literals stand anywhere in this part of a log."""
    sought = {literal.encode() for row in error_texts() for literal in row.literals}
    overlap = max(map(len, sought))
    found: set[bytes] = set()
    for start in range(0, len(log), _PIECE):
        piece = log[start : start + _PIECE + overlap]
        found.update(needle for needle in sought - found if needle in piece)
    return found


def _present(log: bytes) -> set[bytes]:
    """Which of all literals stand anywhere in the log; a large one is shared out to the cores."""
    if len(log) < _WORTH_SHARING:
        return _present_in(log)
    workers = min(os.cpu_count() or 1, 8)
    size = -(-len(log) // workers)
    overlap = max(len(literal.encode()) for row in error_texts() for literal in row.literals)
    parts = [log[start : start + size + overlap] for start in range(0, len(log), size)]
    with ProcessPoolExecutor(max_workers=workers) as pool:
        return set().union(*pool.map(_present_in, parts))


def _matches(log: bytes, row: ErrorText, present: set[bytes]) -> Iterator[tuple[int, str, dict[str, str]]]:
    """(offset, line, parameters) of each line that bears the row's marks."""
    pattern = re.compile(row.pattern) if row.pattern else None
    for needle in present.intersection(literal.encode() for literal in row.literals):
        at = log.find(needle)
        while at >= 0:
            start, end = _line_around(log, at)
            line = log[start:end].decode("utf-8", errors="replace").rstrip("\r")
            found = pattern.search(line) if pattern else None
            if pattern is None or found:
                named = found.groupdict() if found else {}
                yield start, line, {name.rstrip("2"): text for name, text in named.items() if text}
            at = log.find(needle, max(end, at + 1))


_WORDS = ("symbol", "library", "arch", "version", "requirement", "module")


def _explain_row(log: bytes, row: ErrorText, present: set[bytes]) -> Explanation | None:
    seen = sorted(_matches(log, row, present), key=lambda match: match[0])
    if not seen:
        return None
    start, line, parameters = seen[0]
    defaults = dict.fromkeys(_WORDS, "?")
    number = log.count(b"\n", 0, start) + 1
    return Explanation(row.id, number, line.strip()[:_MOST_EXCERPT], len(seen), defaults | parameters)


def explain(log: bytes) -> list[Explanation]:
    """Everything in the text that is known, in the order in which it appears.

    Args:
        log: the text in any ASCII-compatible encoding; UTF-16 (PowerShell's redirection) is recognised.
    """
    if log[:2] in (b"\xff\xfe", b"\xfe\xff"):
        log = log.decode("utf-16", errors="replace").encode()
    found: dict[str, Explanation] = {}
    present = _present(log)
    for row in error_texts():
        explanation = _explain_row(log, row, present)
        if explanation:
            found[row.id] = explanation
    by_id = {row.id: row for row in error_texts()}
    hidden = {name for id in found for name in by_id[id].hides if _same_lines(found, id, name)}
    return sorted((row for id, row in found.items() if id not in hidden), key=lambda row: row.line)


def _same_lines(found: dict[str, Explanation], telling: str, general: str) -> bool:
    """Whether the general row saw nothing beyond what the telling one did."""
    return general in found and found[general].count <= found[telling].count
