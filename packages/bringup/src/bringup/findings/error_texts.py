"""From an error text back to the finding: one pass over a log of any size."""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Annotated

from ahocorasick_rs import BytesAhoCorasick, Implementation
from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field

from bringup.binaries.architectures import Architecture
from bringup.catalog import load

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LONGEST_LINE = 2000
_MOST_EXCERPT = 300
_BEFORE = 150
_COLOURS = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
# Lines of one kind that are looked at and counted; a log may say the same in each of a million lines.
_MOST_LINES = 1000
# Places that have a literal and may be nothing: the same line again, or one that the pattern denies.
_MOST_PLACES = 50_000
_PIECE = 4 << 20
_LONGEST_TAIL = 1 << 20
_LONGEST_LITERAL = 400
_OF_A_TOOLKIT = "nvcc-too-old-for-chip"
_OF_NO_TOOLKIT = "arch-of-no-toolkit"


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
        count: how many lines gave it away, at most 1,000.
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


class _Row:
    """One kind of error text and the lines that were seen of it."""

    def __init__(self, row: ErrorText) -> None:
        self.row = row
        self.pattern = re.compile(row.pattern.encode()) if row.pattern else None
        self.first: Explanation | None = None
        self.count = 0
        self.places = 0
        self.last = -1

    @property
    def full(self) -> bool:
        """Seen so often that it need not be sought any more."""
        return self.count >= _MOST_LINES or self.places >= _MOST_PLACES

    def see(self, piece: bytes, start: int, at: int, end: int, number: int) -> None:
        """The line from `start` to `end` has one of the literals at `at`; `number` is the line's."""
        self.places += 1
        if self.last == number:
            return
        line = piece[start:end]
        found = self.pattern.search(_COLOURS.sub(b"", line)) if self.pattern else None
        if self.pattern and not found:
            return
        self.count += 1
        self.last = number
        if self.first is not None:
            return
        named = found.groupdict() if found else {}
        told = {name.rstrip("2"): text.decode("utf-8", "replace") for name, text in named.items() if text}
        shown = _COLOURS.sub(b"", line[max(0, at - start - _BEFORE) :])
        excerpt = shown.decode("utf-8", "replace").strip()[:_MOST_EXCERPT]
        self.first = Explanation(self.row.id, number, excerpt, 0, dict.fromkeys(_WORDS, "?") | told)


_WORDS = ("symbol", "library", "arch", "version", "requirement", "module", "size", "name")


@dataclass
class _Search:
    """One pass over a log, piece by piece; kinds that were seen often enough are sought no more."""

    rows: dict[str, _Row] = field(default_factory=lambda: {row.id: _Row(row) for row in error_texts()})
    line: int = 1

    def __post_init__(self) -> None:
        self._build()

    def _build(self) -> None:
        self._by_literal: dict[bytes, list[_Row]] = {}
        for row in self.rows.values():
            for literal in row.row.literals if not row.full else ():
                self._by_literal.setdefault(literal.encode(), []).append(row)
        self._literals = list(self._by_literal)
        self._automaton = BytesAhoCorasick(self._literals, implementation=Implementation.DFA)

    def piece(self, piece: bytes, until: int) -> None:
        """Look at `piece[:until]`; what stands behind it is there to finish a line."""
        at, seen = 0, self.line
        # A text in each of thousands of lines is dropped once it was counted: hence the smaller steps.
        step = 1 << 18
        for begin in range(0, until if self._literals else 0, step):
            part = piece[begin : begin + step + _LONGEST_LITERAL]
            full = False
            for index, start, _ in self._automaton.find_matches_as_indexes(part, overlapping=True):
                start += begin
                if start >= min(until, begin + step):
                    continue
                seen += piece.count(b"\n", at, start)
                at = start
                full |= self._match(piece, self._literals[index], start, seen)
            if full:
                self._build()
        self.line += piece.count(b"\n", 0, until)

    def _match(self, piece: bytes, literal: bytes, at: int, number: int) -> bool:
        """Whether a kind has been seen often enough by now."""
        low = max(0, at - _LONGEST_LINE)
        # Progress bars write their lines over one another, parted by carriage returns.
        start = max(piece.rfind(b"\n", low, at) + 1, piece.rfind(b"\r", low, at) + 1, low)
        ends = (piece.find(mark, at, at + _LONGEST_LINE) for mark in (b"\n", b"\r"))
        end = min((place for place in ends if place >= 0), default=at + _LONGEST_LINE)
        full = False
        for row in self._by_literal[literal]:
            if not row.full:
                row.see(piece, start, at, end, number)
                full |= row.full
        return full


def _pieces(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """(bytes, how many of them to look at): whole lines, or as much of an endless line as is there."""
    tail = b""
    for chunk in chunks:
        data = tail + chunk
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > _LONGEST_TAIL:
            cut = len(data) - _LONGEST_LINE
        if cut:
            yield data, cut
        tail = data[cut:]
    if tail:
        yield tail, len(tail)


def _as_utf8(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """UTF-16 (PowerShell's redirection) as UTF-8; everything else as it is."""
    decoder = None
    for number, chunk in enumerate(chunks):
        if number == 0 and chunk[:2] in (b"\xff\xfe", b"\xfe\xff"):
            decoder = codecs.getincrementaldecoder("utf-16")(errors="replace")
        yield decoder.decode(chunk).encode() if decoder else chunk


def explain(log: bytes | Iterable[bytes]) -> list[Explanation]:
    """Everything in the text that is known, in the order in which it appears.

    Args:
        log: the text in any ASCII-compatible encoding; UTF-16 (PowerShell's redirection) is recognised.
            Whole, or in chunks of any size, of which a few megabytes are held at a time.
    """
    chunks = (log[at : at + _PIECE] for at in range(0, len(log), _PIECE)) if isinstance(log, bytes) else log
    search = _Search()
    for piece, until in _pieces(_as_utf8(chunks)):
        search.piece(piece, until)
    found = {
        row.row.id: replace(row.first, count=row.count)
        for row in search.rows.values()
        if row.first is not None
    }
    hidden = {name for id in found for name in search.rows[id].row.hides if _same_lines(found, id, name)}
    shown = (row for id, row in found.items() if id not in hidden)
    told = (_with_toolkits(row) if row.id == _OF_A_TOOLKIT else row for row in shown)
    return sorted(told, key=lambda row: row.line)


def _with_toolkits(row: Explanation) -> Explanation:
    """Told with the toolkits that build for its architecture; where none does, with all there are."""
    every = load().toolkits
    knowing = [toolkit for toolkit in every if _knows(toolkit.architectures, row.parameters["arch"])]
    releases = [Version(toolkit.version) for toolkit in knowing or every]
    first, last = min(releases), max(releases)
    toolkits = str(first) if first == last else f"{first}–{last}"
    id = row.id if knowing else _OF_NO_TOOLKIT
    return replace(row, id=id, parameters=row.parameters | {"toolkits": toolkits})


def _knows(architectures: Iterable[str], name: str) -> bool:
    """Whether this architecture is among them, as it is or as PTX; "native" and the like are none."""
    try:
        return Architecture.parse(name).sm in architectures
    except ValueError:
        return False


def _same_lines(found: dict[str, Explanation], telling: str, general: str) -> bool:
    """Whether the general row saw nothing beyond what the telling one did."""
    return general in found and found[general].count <= found[telling].count
