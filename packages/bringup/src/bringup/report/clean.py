"""What `bringup clean` lists, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bringup.report.messages import say
from bringup.report.progress import size
from bringup.report.tables import home_relative
from bringup.steps.clean.items import Item


def document(items: Sequence[Item], failures: Mapping[Item, str] | None) -> dict[str, Any]:
    """`bringup/clean/1`. `failures`: None when nothing was to be deleted, else why some things stayed."""
    rows = [
        {
            "kind": item.kind,
            "origin": item.origin,
            "path": str(item.path) if item.path else None,
            "image": item.image,
            "engine": item.engine,
            "bytes": item.bytes,
            "deleted": failures is not None and item not in failures,
            "failure": (failures or {}).get(item),
        }
        for item in items
    ]
    freed = sum(item.bytes for item in items if failures is not None and item not in failures)
    total = sum(item.bytes for item in items)
    return {"schema": "bringup/clean/1", "items": rows, "total_bytes": total, "freed_bytes": freed}


def items_table(items: Sequence[Item]) -> Table:
    """One line a thing: size, what it is, where."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(say("clean.size"), justify="right", header_style="bold", no_wrap=True)
    table.add_column(say("clean.what"), header_style="bold", no_wrap=True)
    table.add_column(say("clean.where"), header_style="bold", overflow="fold")
    for item in items:
        place = home_relative(item.path) if item.path else f"{item.engine}: {item.image}"
        table.add_row(size(item.bytes), say(f"clean.kinds.{item.kind}"), Text(place))
    return table


def print_items(items: Sequence[Item], console: Console) -> None:
    """The list and its sum; or that there is nothing."""
    if not items:
        console.print(say("clean.nothing"), markup=False)
        return
    console.print(items_table(items))
    console.print()
    total = size(sum(item.bytes for item in items))
    console.print(say("clean.total", count=len(items), size=total), markup=False)


def reason(failure: str) -> str:
    """Why something stayed, in words."""
    return say(f"clean.stays.{failure}") if failure in ("busy", "changed") else failure


def print_outcome(items: Sequence[Item], failures: Mapping[Item, str], console: Console) -> None:
    """What was freed and what stayed."""
    freed = size(sum(item.bytes for item in items if item not in failures))
    console.print(say("clean.done", count=len(items) - len(failures), size=freed), markup=False)
    for item, failure in failures.items():
        console.print(
            say("clean.stayed", name=item.name, reason=reason(failure)), style="yellow", markup=False
        )
