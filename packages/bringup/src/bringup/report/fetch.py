"""What a pack holds, what is missing in it, and what a machine without network lacks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bringup.report.messages import knows, say, say_error
from bringup.report.progress import size, step_title
from bringup.steps.packing.lacking import Missing
from bringup.steps.packing.manifest import PackManifest
from bringup.steps.packing.pack import Packed

_FOLDERS = ("sources", "wheels", "weights")


def part_title(part: str) -> str:
    """Title of one part of a pack."""
    key = f"fetch.{part}"
    if knows(key):
        return say(key)
    if part.startswith("weights-"):
        return say("fetch.part-weights", name=part.removeprefix("weights-"))
    return step_title(part)


def pack_lines(manifest: PackManifest) -> list[str]:
    """Files and bytes of each folder of a pack."""
    lines = []
    for name in _FOLDERS:
        rows = [file for file in manifest.files if file.path.startswith(f"{name}/")]
        if rows:
            lines.append(
                say("fetch.folder", name=name, count=len(rows), size=size(sum(r.size for r in rows)))
            )
    return lines


def print_packed(packed: Packed, command: str, terminal: Console) -> None:
    """The result of `bringup fetch`, and the command that uses it."""
    manifest = packed.manifest
    for line in pack_lines(manifest):
        terminal.print(f"  {line}", markup=False)
    for part, error in packed.lacking:
        terminal.print(f"  ✗ {part_title(part)}: {say_error(error)}", markup=False)
    terminal.print(say("fetch.total", path=packed.folder, size=size(manifest.size)), markup=False)
    if packed.lacking:
        terminal.print(say("fetch.incomplete", count=len(packed.lacking)), markup=False)
    else:
        terminal.print(say("fetch.use"), markup=False)
        terminal.print(f"  {command}", markup=False, soft_wrap=True)


def document(packed: Packed) -> dict[str, Any]:
    """The manifest, where it lies and what each part took: schema `bringup/packed/1`."""
    seconds = {name: round(value, 3) for name, value in packed.seconds.items()}
    manifest = packed.manifest.model_dump(mode="json", by_alias=True)
    return {
        "schema": "bringup/packed/1",
        "folder": str(packed.folder),
        "bytes": packed.manifest.size,
        "seconds": seconds,
        "pack": manifest,
    }


def print_missing(
    recipe: str,
    chips: str,
    missing: Sequence[Missing],
    pack: Path | None,
    arguments: Sequence[str],
    terminal: Console,
) -> None:
    """All that a machine without network lacks, and how to bring it.

    Args:
        recipe: as it was given. chips: `--gpu sm_120`, or `--cpu`. arguments: the workload's own.
    """
    terminal.print(say("fetch.missing"), markup=False)
    for row in missing:
        names = f": {', '.join(row.files)}" if row.files else ""
        terminal.print(
            f"  ✗ {say(f'fetch.kind-{row.kind}')}  {row.origin}{names}", markup=False, soft_wrap=True
        )
    folder = pack or Path(f"{Path(recipe).stem}-pack")
    words = f"-- {shlex.join(arguments)}" if arguments else "…"
    terminal.print(say("fetch.bring"), markup=False)
    terminal.print(f"  bringup fetch {recipe} --to {folder} {chips}", markup=False, soft_wrap=True)
    terminal.print(say("fetch.then"), markup=False)
    terminal.print(f"  bringup up {recipe} --from {folder} --offline {words}", markup=False, soft_wrap=True)
