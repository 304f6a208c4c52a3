"""What `bringup wsl` shows: the host, the guest, the advice, and the change to `.wslconfig`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bringup.facts.host import HostFacts
from bringup.report.messages import say
from bringup.steps.wsl.settings import GB, Advice, WindowsHost, parse_size, satisfied

RESTART = "wsl --shutdown"


@dataclass(frozen=True)
class WslReport:
    """Everything that is shown. `guest`: None when asked from Windows itself."""

    host: WindowsHost
    guest: HostFacts | None
    file: Path
    current: dict[str, str]
    advice: Advice
    changes: dict[str, str]
    diff: str
    written: bool
    kept: Path | None


def _gib(count: int) -> str:
    return f"{count / GB:.1f} GB"


def document(report: WslReport) -> dict[str, Any]:
    """`bringup/wsl/1`; sizes in bytes."""
    guest = report.guest
    return {
        "schema": "bringup/wsl/1",
        "host": {
            "memory": report.host.memory,
            "processors": report.host.processors,
            "disk_free": report.host.disk_free,
        },
        "guest": None
        if guest is None
        else {
            "memory": guest.memory_installed,
            "processors": guest.cores_installed,
            "swap": guest.swap_total,
        },
        "file": str(report.file),
        "current": report.current,
        "advice": report.advice.settings(),
        "changes": report.changes,
        "diff": report.diff,
        "written": report.written,
        "kept": str(report.kept) if report.kept else None,
        "satisfied": None
        if guest is None
        else satisfied(report.current.get("memory"), guest.memory_installed),
        "restart": RESTART if report.changes or report.written else None,
    }


def _table(report: WslReport) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    headings = ("", say("wsl.windows"), say("wsl.now"), say("wsl.file"), say("wsl.advice"))
    for heading in headings:
        table.add_column(heading, header_style="bold")
    host, guest, current, advice = report.host, report.guest, report.current, report.advice.settings()
    memory = _gib(guest.memory_installed) if guest else "–"
    swap = _gib(guest.swap_total) if guest else "–"
    cores = str(guest.cores_installed) if guest else "–"
    table.add_row(say("wsl.memory"), _gib(host.memory), memory, current.get("memory", "–"), advice["memory"])
    table.add_row(
        say("wsl.processors"),
        str(host.processors),
        cores,
        current.get("processors", "–"),
        advice["processors"],
    )
    table.add_row(say("wsl.swap"), "", swap, current.get("swap", "–"), advice["swap"])
    return table


def print_report(report: WslReport, console: Console) -> None:
    """What is, what should be, and the change."""
    console.print(_table(report))
    console.print()
    for line in report.diff.splitlines():
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        console.print(Text(line, style=style), soft_wrap=True)
    if report.diff:
        console.print()


def print_outcome(report: WslReport, console: Console) -> None:
    """What happened and what to do next."""
    asked = report.current.get("memory")
    if report.guest and not report.changes and not satisfied(asked, report.guest.memory_installed):
        seen = _gib(report.guest.memory_installed)
        console.print(say("wsl.not-yet", asked=_gib(parse_size(asked or "") or 0), seen=seen), markup=False)
        console.print(say("wsl.restart"), markup=False)
        return
    if not report.changes:
        console.print(say("wsl.nothing", path=report.file), markup=False)
        return
    if report.written:
        kept = say("wsl.kept", path=report.kept) if report.kept else ""
        console.print(say("wsl.written", path=report.file) + kept, markup=False)
        console.print(say("wsl.restart"), markup=False)
    else:
        console.print(say("wsl.would", path=report.file), markup=False)
