"""A folder of Python files: every `torch.load` made safe, left alone with a reason, or opened on request."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import libcst as cst

from bringup.errors import BringupError
from bringup.steps.rewrite import journal
from bringup.steps.rewrite.calls import LoadCall, find_calls
from bringup.steps.rewrite.documents import Document, UnreadableSource, open_document
from bringup.steps.rewrite.evidence import Checkpoints
from bringup.steps.rewrite.journal import ByteEdit

_SKIPPED = frozenset(
    (".git", ".hg", ".svn", "__pycache__", "node_modules", "site-packages", ".ipynb_checkpoints")
)
_MODULE_ALIAS = re.compile(rb"\b(?:torch|serialization)\s+as\s+(\w+)")
_FROM_IMPORT = re.compile(rb"\bfrom\s+torch(?:\.serialization)?\s+import\b")
_LOAD = re.compile(rb"\bload\b")
_SHEBANG = re.compile(rb"#![^\n]*\bpython[0-9.]*\b")


@dataclass(frozen=True)
class CallResult:
    """One call and what became of it.

    Attributes:
        line, column: in the file, counted from 1; in a notebook, of its JSON text.
        text: the call's source on one line.
        action: "added-true", "added-false", "set-false", "already", "left".
        reason: `LoadCall.state` of a call that was left, "checkpoint" (`checkpoint` needs more), or
            "whole-module": made safe, but what it gives is used as a module: the file needs converting.
        checkpoint: the file that weights-only loading refuses, and `refused`: the name in its pickle.
        command: what mends it by hand.
    """

    line: int
    column: int
    text: str
    action: str
    reason: str | None = None
    checkpoint: str | None = None
    refused: str | None = None
    command: str | None = None


@dataclass(frozen=True)
class FileResult:
    """One file with calls. `before` and `after` are its bytes; `broken`: cells that could not be read."""

    path: Path
    calls: tuple[CallResult, ...]
    edits: tuple[ByteEdit, ...]
    before: bytes
    broken: tuple[str, ...] = ()

    @property
    def after(self) -> bytes:
        return journal.splice(self.before, self.edits)


@dataclass(frozen=True)
class Rewriting:
    """A folder's result.

    Attributes:
        root: the folder, or the folder of the single file that was named.
        files: those with calls; unparsable: (file, why), only those that mention torch and load.
        searched: number of Python files and notebooks looked at.
    """

    root: Path
    files: tuple[FileResult, ...]
    unparsable: tuple[tuple[Path, str], ...]
    searched: int
    written: bool


def _may_call_torch_load(data: bytes) -> bool:
    """Whether parsing is worth while: parsing is what costs, and nearly all files never mention it."""
    if not _LOAD.search(data) or b"torch" not in data:
        return False
    modules = b"|".join({b"torch", b"serialization", *_MODULE_ALIAS.findall(data)})
    attribute = rb"\b(?:%s)\s*(?:\\\s*)?\.\s*(?:\\\s*)?load\b" % modules
    return bool(_FROM_IMPORT.search(data) or re.search(attribute, data))


def _is_python(path: Path) -> bool:
    if path.suffix in (".py", ".pyw", ".ipynb"):
        return True
    if path.suffix:
        return False
    try:
        with path.open("rb") as stream:
            return bool(_SHEBANG.match(stream.readline(200)))
    except OSError:
        return False


def python_files(root: Path) -> Iterator[Path]:
    """Scripts and notebooks below a folder; environments, histories and links are passed by."""
    for folder, names, files in os.walk(root):
        inside = Path(folder)
        names[:] = sorted(
            name
            for name in names
            if name not in _SKIPPED
            and not (inside / name / "pyvenv.cfg").exists()
            and not (inside / name / "conda-meta").is_dir()
        )
        for name in sorted(files):
            path = inside / name
            if not path.is_symlink() and path.is_file() and _is_python(path):
                yield path


class AllowList:
    """`--allow-pickle FILE:LINE[:COLUMN]`: calls that shall go on running pickles."""

    def __init__(self, wishes: Sequence[str], root: Path) -> None:
        self._wishes = {wish: self._parse(wish, root) for wish in wishes}
        self._met: dict[str, list[str]] = {wish: [] for wish in wishes}

    @staticmethod
    def _parse(wish: str, root: Path) -> tuple[frozenset[Path], int, int | None]:
        match = re.fullmatch(r"(?P<file>.+?):(?P<line>\d+)(?::(?P<column>\d+))?", wish)
        if match is None:
            raise BringupError("allow-pickle-form", exit_code=2, given=wish)
        named = Path(match["file"])
        places = frozenset((named.absolute().resolve(), (root / named).resolve()))
        return places, int(match["line"]), int(match["column"]) if match["column"] else None

    def names(self, path: Path, line: int, column: int) -> bool:
        for wish, (places, wanted_line, wanted_column) in self._wishes.items():
            if path in places and line == wanted_line and wanted_column in (None, column):
                self._met[wish].append(f"{line}:{column}")
                return True
        return False

    def check(self) -> None:
        """Each wish names exactly one call.

        Raises:
            BringupError: `allow-pickle-nothing`, `allow-pickle-several`.
        """
        for wish, met in self._met.items():
            if not met:
                raise BringupError("allow-pickle-nothing", exit_code=2, given=wish)
            if len(met) > 1:
                raise BringupError("allow-pickle-several", exit_code=2, given=wish, places=", ".join(met))


class _Rewriter:
    def __init__(self, root: Path, allowed: AllowList) -> None:
        self._allowed = allowed
        self._checkpoints = Checkpoints(root)

    def file(self, path: Path, data: bytes) -> FileResult:
        document = open_document(path, data)
        results, edits = [], []
        for call in find_calls(document.text, document.multiline):
            result, edit = self._call(path, document, call)
            results.append(result)
            edits += edit
        # Inner calls end before outer ones get their argument, so offsets alone order the edits.
        edits.sort(key=lambda edit: edit.start)
        return FileResult(path, tuple(results), tuple(edits), data, document.broken)

    def _call(self, path: Path, document: Document, call: LoadCall) -> tuple[CallResult, list[ByteEdit]]:
        line = document.line(call.start)
        before = document.text[: call.start].replace("\r", "\n")
        column = len(before) - before.rfind("\n")
        text = " ".join(document.text[call.start : call.end].split())
        if self._allowed.names(path, line, column):
            edits, action = self._open(document, call)
            reason = None if edits or action == "already" else call.state
            return CallResult(line, column, text, action, reason), edits
        if call.state == "said":
            return CallResult(line, column, text, "already"), []
        refused = self._checkpoints.refused(call.glob, path) if call.glob else None
        if call.state != "missing":
            return CallResult(line, column, text, "left", call.state), []
        if refused is not None:
            file, name = refused
            command = _conversion(str(file))
            return CallResult(line, column, text, "left", "checkpoint", str(file), name, command), []
        result = CallResult(line, column, text, "added-true")
        if call.whole_module:
            result = replace(result, reason="whole-module", command=_conversion("CHECKPOINT"))
        return result, [_added(document, call, "True")]

    @staticmethod
    def _open(document: Document, call: LoadCall) -> tuple[list[ByteEdit], str]:
        """`weights_only=False` for a call that the user names."""
        if call.add is not None:
            return [_added(document, call, "False")], "added-false"
        if call.value is None:
            return [], "left"
        start, end = call.value
        if document.text[start:end] == "False":
            return [], "already"
        raw = document.raw(start)
        return [ByteEdit(raw, document.encode(document.text[start:end]), b"False")], "set-false"


def _added(document: Document, call: LoadCall, value: str) -> ByteEdit:
    assert call.add is not None
    return ByteEdit(document.raw(call.add.start), b"", document.encode(call.add.new.replace("\0", value)))


def _conversion(checkpoint: str) -> str:
    return f'bringup convert "{checkpoint}" -o converted_models'


def _verify(result: FileResult) -> None:
    """The new text parses, and every call that was edited says weights_only now."""
    document = open_document(result.path, result.after)
    said = sum(call.state == "said" for call in find_calls(document.text, document.multiline))
    expected = sum(call.action != "left" for call in result.calls)
    if said != expected:
        raise UnreadableSource(f"{expected} calls should say weights_only after the edit, {said} do")


def rewrite(
    folder: Path,
    allow_pickle: Sequence[str] = (),
    write: bool = True,
    on_file: Callable[[Path], None] = lambda path: None,
) -> Rewriting:
    """Give every call of torch.load below a folder (or in one file) its `weights_only=True`.

    Nothing is written before every file has been read and every edit checked; then the journal is, and then
    the files, each whole.

    Raises:
        BringupError: `no-project`, `allow-pickle-…`, `rewrite-failed`.
    """
    root = folder.resolve()
    if not root.exists():
        raise BringupError("no-project", exit_code=2, path=folder)
    paths = [root] if root.is_file() else list(python_files(root))
    base = root.parent if root.is_file() else root
    allowed = AllowList(allow_pickle, base)
    rewriter = _Rewriter(base, allowed)
    files, unparsable = [], []
    for path in paths:
        on_file(path)
        try:
            data = path.read_bytes()
            if not _may_call_torch_load(data):
                continue
            result = rewriter.file(path, data)
            if result.edits:
                _verify(result)
            if result.calls:
                files.append(result)
            unparsable += [(path, text) for text in result.broken]
        except (UnreadableSource, OSError, ValueError, RecursionError) as error:
            unparsable.append((path, str(error)))
        except cst.ParserSyntaxError as error:
            unparsable.append((path, f"line {error.raw_line}: {error.message.splitlines()[0]}"))
    allowed.check()
    if write:
        _write(root, files)
    return Rewriting(base, tuple(files), tuple(unparsable), len(paths), write)


def _write(root: Path, files: Sequence[FileResult]) -> None:
    changed = [(file.path, file.before, file.edits) for file in files if file.edits]
    if not changed:
        return
    journal.record(root, changed)
    for path, before, edits in changed:
        if path.read_bytes() != before:
            raise BringupError("rewrite-changed", path=path)
        try:
            journal.replace_bytes(path, journal.splice(before, edits))
        except OSError as error:
            raise BringupError("rewrite-failed", path=path, text=error.strerror or error) from error
