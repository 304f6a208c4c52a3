"""What a rewriting did: a list for people, a unified diff, a document for programs."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console

from bringup.report.messages import say
from bringup.steps.rewrite import CallResult, FileResult, Rewriting, Undone


def _relative(result: Rewriting, file: FileResult) -> str:
    return file.path.relative_to(result.root).as_posix()


def document(result: Rewriting) -> dict[str, Any]:
    """`bringup/rewrite/1`."""
    calls = [
        {"file": _relative(result, file), **asdict(call)} for file in result.files for call in file.calls
    ]
    return {
        "schema": "bringup/rewrite/1",
        "root": str(result.root),
        "written": result.written,
        "searched": result.searched,
        "files": [_relative(result, file) for file in result.files if file.edits],
        "calls": calls,
        "unparsable": [
            {"file": path.relative_to(result.root).as_posix(), "text": text}
            for path, text in result.unparsable
        ],
    }


# Undecodable bytes travel through as surrogates, so that `patch` can apply the result.
def _hunks(name: str, file: FileResult) -> Iterator[str]:
    before, after = (
        [line + "\n" for line in data.decode("utf-8", "surrogateescape").split("\n")]
        for data in (file.before, file.after)
    )
    for lines in (before, after):
        if lines[-1] == "\n":
            lines.pop()
        else:
            lines[-1] = lines[-1] + "\\ No newline at end of file\n"
    yield from difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")


def diff_of(result: Rewriting) -> str:
    """A unified diff that `patch -p1` and `git apply` take; bytes that are no UTF-8 as surrogates."""
    return "".join(
        hunk for file in result.files if file.edits for hunk in _hunks(_relative(result, file), file)
    )


def print_diff(result: Rewriting) -> None:
    """The diff on standard output, byte for byte."""
    sys.stdout.flush()
    data = diff_of(result).encode("utf-8", "surrogateescape")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _line(result: Rewriting, file: FileResult, call: CallResult) -> str:
    place = f"{_relative(result, file)}:{call.line}"
    text = call.text if len(call.text) <= 100 else call.text[:99] + "…"
    return f"{place}: {text}"


def _why(call: CallResult) -> str:
    facts = {"checkpoint": os.path.basename(call.checkpoint or ""), "refused": call.refused or ""}  # noqa: PTH119
    return say(f"rewrite.reason.{call.reason}", **facts)


def _print_calls(result: Rewriting, action: str, terminal: Console) -> None:
    rows = [(file, call) for file in result.files for call in file.calls if call.action == action]
    if not rows:
        return
    title = f"rewrite.{'would-' if not result.written and action != 'left' else ''}{action}"
    terminal.print(say(title, count=len(rows)), markup=False)
    for file, call in rows:
        terminal.print("  " + _line(result, file, call), markup=False, soft_wrap=True)
        if call.reason:
            terminal.print("      " + _why(call), markup=False, soft_wrap=True)
        if call.command:
            terminal.print("      " + call.command, markup=False, soft_wrap=True)


def print_summary(result: Rewriting, terminal: Console) -> None:
    """Counts, and every call that was changed or left."""
    for action in ("added-true", "added-false", "set-false", "left"):
        _print_calls(result, action, terminal)
    for path, text in result.unparsable:
        name = path.relative_to(result.root).as_posix()
        terminal.print(say("rewrite.unparsable", file=name, text=text), markup=False, soft_wrap=True)
    already = sum(call.action == "already" for file in result.files for call in file.calls)
    changed = sum(bool(file.edits) for file in result.files)
    key = "rewrite.done" if result.written else "rewrite.would"
    terminal.print(say(key, searched=result.searched, changed=changed, already=already), markup=False)
    if changed and result.written:
        terminal.print(say("rewrite.undo-hint", path=result.root), markup=False, soft_wrap=True)


def undone_document(undone: Undone) -> dict[str, Any]:
    """`bringup/rewrite-undo/1`."""
    return {
        "schema": "bringup/rewrite-undo/1",
        "restored": [str(path) for path in undone.restored],
        "changed": [str(path) for path in undone.changed],
    }


def print_undone(undone: Undone, terminal: Console) -> None:
    """What was put back, and what somebody has changed since."""
    terminal.print(say("rewrite.undone", count=len(undone.restored)), markup=False)
    for path in undone.changed:
        terminal.print(say("rewrite.changed-since", path=path), markup=False, soft_wrap=True)
