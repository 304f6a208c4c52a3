"""What a scan found, as a table for people and as a document for programs (`schemas/scan.json`)."""

from __future__ import annotations

import os
import textwrap
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from bringup.binaries.architectures import ComputeCapability
from bringup.binaries.compatibility import Verdict
from bringup.binaries.report import BinaryReport, CudaRuntime, Unreadable
from bringup.report import console
from bringup.report.messages import say
from bringup.report.progress import duration

if TYPE_CHECKING:
    from rich.progress import Progress

_MOST_UNREADABLE = 20
_INDENT = 4


@dataclass(frozen=True)
class Chip:
    """A GPU to judge for. `driver_cuda`: newest CUDA whose PTX its driver compiles, None if not known."""

    name: str
    capability: ComputeCapability
    driver_cuda: tuple[int, int] | None = None


class ScanProgress:
    """The number of files and the current one, on a terminal's standard error, after two seconds."""

    def __init__(self) -> None:
        self._terminal = console.remarks()
        self._bar: Progress | None = None
        self._count = 0
        self._timer = threading.Timer(2.0, self._show)
        self._timer.daemon = True

    def _show(self) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        bar = Progress(*columns, console=self._terminal, transient=True)
        self._task = bar.add_task(say("scan.progress"), total=None)
        bar.start()
        self._bar = bar

    def __enter__(self) -> ScanProgress:
        if self._terminal.is_terminal:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._bar:
            self._bar.stop()

    def on_file(self, path: str) -> None:
        """Tell the next file's path."""
        self._count += 1
        if self._bar:
            text = f"{say('scan.progress')} {self._count} · {path[-48:]}"
            self._bar.update(self._task, description=text)


def not_read(files: Sequence[BinaryReport], unreadable: Sequence[Unreadable]) -> list[Unreadable]:
    """What could not be read at all, and what could not be read of the rest."""
    return [*unreadable, *(Unreadable(row.path, row.damage) for row in files if row.damage)]


def scan_document(
    files: Sequence[BinaryReport], unreadable: Sequence[Unreadable], chips: Sequence[Chip]
) -> dict[str, Any]:
    """`bringup/scan/1`. A file without CUDA code has empty lists and an empty `runs_on`."""
    return {
        "schema": "bringup/scan/1",
        "gpus": [{"name": chip.name, "architecture": chip.capability.sm} for chip in chips],
        "files": [_file(row, chips) for row in files],
        "unreadable": [{"path": row.path, "reason": row.reason} for row in not_read(files, unreadable)],
    }


def _verdict(row: BinaryReport, chip: Chip) -> Verdict:
    return row.runs_on(chip.capability, chip.driver_cuda)


def _file(row: BinaryReport, chips: Sequence[Chip]) -> dict[str, Any]:
    verdicts = {chip.capability.sm: _verdict(row, chip) for chip in chips} if row.has_device_code else {}
    return {
        "path": row.path,
        "kind": row.kind,
        "machine": row.machine,
        "size": row.size,
        "machine_code": list(row.machine_code),
        "machine_code_in_all": list(row.machine_code_in_all),
        "ptx": list(row.ptx),
        "runs_on": {name: verdict.status for name, verdict in verdicts.items()},
        "containers": len(row.containers),
        "containers_without": {name: verdict.without for name, verdict in verdicts.items()},
        "relocatable": row.relocatable,
        "cuda_runtime": _runtime_document(row.cuda_runtime),
        "torch_extension": row.torch_extension,
        "needed": list(row.needed),
        "damage": row.damage,
    }


def _runtime_document(runtime: CudaRuntime | None) -> dict[str, Any] | None:
    if runtime is None:
        return None
    return {"library": runtime.library, "major": runtime.major, "linkage": runtime.linkage}


def print_scan(
    terminal: Console,
    roots: Sequence[Path],
    files: Sequence[BinaryReport],
    unreadable: Sequence[Unreadable],
    chips: Sequence[Chip],
    seconds: float,
    all_files: bool,
) -> None:
    """The table, what could not be read, and one line that sums up."""
    device = [row for row in files if row.has_device_code]
    shown = list(files) if all_files else device
    if shown:
        _print_table(terminal, shown, roots, chips)
        terminal.print()
    if device:
        terminal.print(say("scan.legend-columns"), markup=False)
    if device and chips:
        terminal.print(say("scan.legend"), markup=False)
        for row in device:
            _print_partial(terminal, row, chips)
    troubles = not_read(files, unreadable)
    if troubles:
        terminal.print(say("scan.unreadable"), markup=False)
    for trouble in troubles if all_files else troubles[:_MOST_UNREADABLE]:
        terminal.print(f"  {_short(trouble.path, roots)}: {trouble.reason}", markup=False)
    if len(troubles) > _MOST_UNREADABLE and not all_files:
        terminal.print(f"  … {len(troubles) - _MOST_UNREADABLE} (--all)", markup=False)
    if device and not chips:
        terminal.print(say("scan.no-gpu"), markup=False)
    counts = {"files": len(files), "device": len(device), "unreadable": len(troubles)}
    terminal.print(say("scan.summary", seconds=duration(seconds), **counts), markup=False)


def _print_partial(terminal: Console, row: BinaryReport, chips: Sequence[Chip]) -> None:
    counts = []
    for chip in chips:
        verdict = _verdict(row, chip)
        if verdict.status == "partial":
            total = verdict.without + verdict.by_machine_code + verdict.by_ptx
            counts.append(f"{verdict.without}/{total} ({chip.capability.sm})")
    if counts:
        path = Path(row.path).name
        terminal.print(say("scan.partial", path=path, counts=", ".join(counts)), markup=False)


def _print_table(
    terminal: Console, rows: Sequence[BinaryReport], roots: Sequence[Path], chips: Sequence[Chip]
) -> None:
    """A line for each path, which may be long, and below it, aligned, what it carries."""
    headings = [say("scan.ptx"), say("scan.runtime"), say("scan.torch")]
    headings += [chip.capability.sm for chip in chips]
    cells = [_cells(row, chips) for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]
    code = [_machine_code(row) for row in rows]
    room = terminal.width - _INDENT - sum(width + 2 for width in widths)
    room = min(max(room, 16), max(map(cell_len, [say("scan.machine-code"), *code])))
    lines = [say("scan.file"), *_aligned(say("scan.machine-code"), room, headings, widths)]
    for row, text, others in zip(rows, code, cells, strict=True):
        lines += [_short(row.path, roots), *_aligned(text, room, others, widths)]
    for line in lines:
        terminal.print(line, markup=False, soft_wrap=True)


def _aligned(code: str, room: int, cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The architectures, folded into their column, and the other cells beside the first line."""
    folded = textwrap.wrap(code, room) or [""]
    padded = "".join(f"  {set_cell_size(cell, width)}" for cell, width in zip(cells, widths, strict=True))
    first = f"{set_cell_size(folded[0], room)}{padded}".rstrip()
    return [" " * _INDENT + line for line in (first, *folded[1:])]


def _cells(row: BinaryReport, chips: Sequence[Chip]) -> list[str]:
    extension = say("scan.extension") if row.torch_extension else "–"
    return [_numbers(row.ptx) or "–", _runtime(row), extension, *(_status(row, chip) for chip in chips)]


def _short(path: str, roots: Sequence[Path]) -> str:
    """Relative to the folder or archive that was named, if there was just one."""
    if len(roots) != 1:
        return path
    root = os.fspath(roots[0])
    inner = path.removeprefix(root).lstrip("/\\!") if path.startswith(root) else path
    return inner or Path(path).name


def _numbers(names: Sequence[str]) -> str:
    return " ".join(name.partition("_")[2] for name in names)


def _machine_code(row: BinaryReport) -> str:
    """Numbers of what every container has, and behind a plus what only some have."""
    everywhere = row.machine_code_in_all
    some = [name for name in row.machine_code if name not in everywhere]
    text = _numbers(everywhere)
    if some:
        text = f"{text} (+{_numbers(some)})".strip()
    return text or "–"


def _runtime(row: BinaryReport) -> str:
    if row.cuda_runtime is None:
        return "–"
    if row.cuda_runtime.linkage == "static":
        return say("scan.static")
    return str(row.cuda_runtime.major or row.cuda_runtime.library or "–")


def _status(row: BinaryReport, chip: Chip) -> str:
    return say(f"scan.status-{_verdict(row, chip).status}") if row.has_device_code else "–"
