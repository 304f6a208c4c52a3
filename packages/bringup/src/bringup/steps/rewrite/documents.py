"""A file as Python text whose every position can be found again in the file's own bytes.

A script is its decoded text; a notebook is its code cells, one after the other. Edits are made in the
bytes, so that whatever is not edited cannot change: encoding, byte-order mark, line endings, JSON layout.
"""

from __future__ import annotations

import codecs
import io
import itertools
import json
import re
import tokenize
from json import decoder, scanner
from pathlib import Path
from typing import Any, Protocol

import libcst as cst


class UnreadableSource(Exception):
    """The file cannot be taken as Python text; the message says why."""


class Document(Protocol):
    """Python text and the way back to the bytes that it came from.

    Attributes:
        text: what is parsed.
        multiline: whether an insertion may hold a line ending.
        broken: parts that are no Python and were left out, as sentences.
    """

    text: str
    multiline: bool
    broken: tuple[str, ...]

    def raw(self, position: int) -> int:
        """Byte offset in the file of a character offset in `text`."""

    def encode(self, inserted: str) -> bytes:
        """Inserted text as the file writes it."""

    def line(self, position: int) -> int:
        """Line in the file, counted from 1."""


def _lines_before(text: str) -> int:
    return len(re.findall(r"\r\n|\r|\n", text)) + 1


class Script:
    """A Python file. Its encoding is found as PEP 263 says."""

    multiline = True
    broken: tuple[str, ...] = ()

    def __init__(self, data: bytes) -> None:
        try:
            # The first two lines tell; `readline` would take a file of carriage returns for one line.
            head = b"\n".join(re.split(rb"\r\n|\r|\n", data, maxsplit=2)[:2])
            self._encoding, _ = tokenize.detect_encoding(io.BytesIO(head).readline)
            self._mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
            if self._encoding == "utf-8-sig":
                self._encoding = "utf-8"
            body = data[len(self._mark) :]
            self.text = body.decode(self._encoding)
            # Encodings with shift states may spell the same text in two ways: positions would be wrong.
            if self.text.encode(self._encoding) != body:
                raise UnreadableSource(f"text in {self._encoding} that cannot be written back as it was")
        except (SyntaxError, UnicodeError, LookupError) as error:
            raise UnreadableSource(str(error)) from error

    def raw(self, position: int) -> int:
        return len(self._mark) + len(self.text[:position].encode(self._encoding))

    def encode(self, inserted: str) -> bytes:
        return inserted.encode(self._encoding)

    def line(self, position: int) -> int:
        return _lines_before(self.text[:position])


class _Located(str):
    """A JSON string that knows where it stands: `[start, end)`, both quotes included."""

    start: int
    end: int


class _LocatingDecoder(json.JSONDecoder):
    def __init__(self) -> None:
        super().__init__()
        self.parse_string = _parse_located
        # The scanner in C does not ask `parse_string`.
        self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]


def _parse_located(text: str, position: int, strict: bool = True) -> tuple[_Located, int]:
    value, end = decoder.scanstring(text, position, strict)  # type: ignore[attr-defined]
    located = _Located(value)
    located.start, located.end = position - 1, end
    return located, end


_ESCAPE = re.compile(
    r'\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[^"\\]'
)
_MAGIC = re.compile(r"[ \t]*(?:[%!?]|[^#'\"]*\?\??[ \t]*$)")
_CELL_MAGIC = re.compile(r"\s*%%(\w+)")
_PYTHON_CELL_MAGICS = frozenset(("time", "timeit", "capture", "prun"))


def _raw_positions(text: str, string: _Located) -> list[int]:
    """Offset in the JSON text of each character of the string's value."""
    return [match.start() for match in _ESCAPE.finditer(text, string.start + 1, string.end - 1)]


def _hide_magics(source: str) -> str:
    """IPython's own lines as comments of the same length, `pass` in front where there is room for it."""
    lines = []
    for line in source.splitlines(keepends=True):
        body = line.rstrip("\r\n")
        if _MAGIC.match(body) and not body.lstrip().startswith("#"):
            indent = body[: len(body) - len(body.lstrip())]
            width = len(body) - len(indent)
            hidden = indent + ("pass" + "#" * (width - 4) if width >= 4 else "0" + "#" * (width - 1))
            line = hidden + line[len(body) :]
        lines.append(line)
    return "".join(lines)


def _is_python(cell: dict[str, Any], source: str) -> bool:
    magic = _CELL_MAGIC.match(source)
    return cell.get("cell_type") == "code" and (magic is None or magic[1] in _PYTHON_CELL_MAGICS)


def _syntax_error(text: str) -> str | None:
    try:
        cst.parse_module(text)
    except cst.ParserSyntaxError as error:
        return f"line {error.raw_line}"
    return None


class Notebook:
    """The code cells of a Jupyter notebook (nbformat 4), joined by line endings."""

    multiline = False

    def __init__(self, data: bytes) -> None:
        try:
            self._json = data.decode("utf-8")
            document = _LocatingDecoder().decode(self._json)
            cells = document["cells"]
            texts, positions, broken = [], [], []
            for number, cell in enumerate(cells, 1):
                parts = cell["source"] if isinstance(cell["source"], list) else [cell["source"]]
                source = "".join(parts)
                if not _is_python(cell, source):
                    continue
                where = list(
                    itertools.chain.from_iterable(_raw_positions(self._json, part) for part in parts)
                )
                if len(where) != len(source):
                    raise UnreadableSource("a cell's text cannot be located")
                text = _hide_magics(source) + "\n"
                trouble = _syntax_error(text)
                if trouble:
                    if "torch" in source and "load" in source:
                        broken.append(f"cell {number}, {trouble}")
                    continue
                texts.append(text)
                positions += [*where, parts[-1].end - 1 if parts else 0]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnreadableSource(f"no notebook: {error}") from error
        self.text = "".join(texts)
        self.broken = tuple(broken)
        self._positions = [*positions, len(self._json)]

    def raw(self, position: int) -> int:
        return len(self._json[: self._positions[position]].encode("utf-8"))

    def encode(self, inserted: str) -> bytes:
        return json.dumps(inserted)[1:-1].encode("ascii")

    def line(self, position: int) -> int:
        return _lines_before(self._json[: self._positions[position]])


def open_document(path: Path, data: bytes) -> Document:
    """Take a file's bytes as Python text.

    Raises:
        UnreadableSource: it is in no encoding, or no notebook.
    """
    return Notebook(data) if path.suffix == ".ipynb" else Script(data)
