"""Explanations in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from bringup.findings.error_texts import Explanation
from bringup.report.messages import say


def cause(row: Explanation) -> str:
    """Why the text appears."""
    return say(f"explain.{row.id}.cause", **row.parameters)


def fix(row: Explanation) -> str:
    """The command (or deed) that mends it."""
    return say(f"explain.{row.id}.fix", **row.parameters)


def explanation_json(row: Explanation) -> dict[str, Any]:
    """Plain data; `evidence` is what gave it away."""
    evidence = {"line": row.line, "text": row.excerpt, "lines": row.count}
    return {"id": row.id, "cause": cause(row), "fix": fix(row), "evidence": evidence}


def print_explanations(rows: Sequence[Explanation], console: Console) -> None:
    """One paragraph each: id and place, the line itself, why, what to do."""
    if not rows:
        console.print(say("explain-ui.unknown"), markup=False)
    for row in rows:
        place = say("explain-ui.line", line=row.line)
        console.print(Text.assemble((row.id, "bold"), f"  ({place})"))
        console.print(Padding(Text(row.excerpt, style="dim"), (0, 0, 0, 2)))
        console.print(Padding(Text(f"{say('explain-ui.cause')}: {cause(row)}"), (0, 0, 0, 2)))
        console.print(Padding(Text(f"{say('explain-ui.fix')}: {fix(row)}"), (0, 0, 1, 2)))
