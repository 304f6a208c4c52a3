"""Toolkits that are here, ways to others, and what a removal would take, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bringup.facts.toolchains import CudaToolkit
from bringup.report.messages import say
from bringup.report.progress import size
from bringup.report.tables import home_relative
from bringup.steps.toolkit.plans import ToolkitPlan
from bringup.steps.toolkit.remove import PackageRemoval, Removal
from bringup.steps.toolkit.wheels import Installed


def listing_document(toolkits: Sequence[CudaToolkit]) -> dict[str, Any]:
    """`bringup/toolkits/1`."""
    rows = [
        {
            "version": row.release,
            "root": str(row.root),
            "nvcc": str(row.nvcc),
            "origin": row.origin,
            "architectures": [code.sm for code in row.architectures],
        }
        for row in toolkits
    ]
    return {"schema": "bringup/toolkits/1", "toolkits": rows}


def print_listing(toolkits: Sequence[CudaToolkit], terminal: Console) -> None:
    """One line a toolkit."""
    if not toolkits:
        terminal.print(say("toolkit.none"), markup=False)
    for row in toolkits:
        known = [code.sm for code in row.architectures if not code.suffix]
        span = f"{known[0]} … {known[-1]}" if known else "–"
        origin = say(f"build.origin-{row.origin}")
        line = say("toolkit.row", release=row.release, root=home_relative(row.root), origin=origin, span=span)
        terminal.print(line, markup=False, soft_wrap=True)


def installed_document(toolkit: CudaToolkit, manifest: Installed | None) -> dict[str, Any]:
    """`bringup/toolkit-installed/1`."""
    return {
        "schema": "bringup/toolkit-installed/1",
        "version": toolkit.release,
        "root": str(toolkit.root),
        "environment": manifest.environment if manifest else None,
        "packages": [list(row) for row in manifest.packages] if manifest else [],
        "links": list(manifest.links) if manifest else [],
    }


def print_installed(toolkit: CudaToolkit, manifest: Installed | None, terminal: Console) -> None:
    """Where it is and what it brought."""
    line = say("toolkit.installed", release=toolkit.release, root=toolkit.root)
    terminal.print(line, markup=False, soft_wrap=True)
    for name, version in manifest.packages if manifest else ():
        terminal.print(f"  {name} {version}", markup=False)
    terminal.print(say("toolkit.use", root=toolkit.root), markup=False, soft_wrap=True)


def plan_document(plan: ToolkitPlan) -> dict[str, Any]:
    """`bringup/toolkit-plan/1`."""
    ways = [
        {
            "id": way.id,
            "root": str(way.root),
            "needs_root": way.needs_root,
            "commands": list(way.commands),
        }
        for way in plan.ways
    ]
    return {"schema": "bringup/toolkit-plan/1", "version": plan.version, "ways": ways}


def print_plan(plan: ToolkitPlan, terminal: Console) -> None:
    """Each way and its commands, to be copied."""
    terminal.print(say("toolkit.plan", version=plan.version), markup=False, soft_wrap=True)
    for number, way in enumerate(plan.ways, 1):
        terminal.print(f"\n{number}. {say(f'toolkit.way.{way.id}')}", markup=False, soft_wrap=True)
        for command in way.commands:
            terminal.print(command, markup=False, soft_wrap=True)
        terminal.print(say("toolkit.use", root=way.root), markup=False, soft_wrap=True)


def removal_document(removal: Removal, done: bool) -> dict[str, Any]:
    """`bringup/toolkit-removal/1`."""
    return {
        "schema": "bringup/toolkit-removal/1",
        "done": done,
        "folders": [{"path": str(path), "bytes": count} for path, count in removal.folders],
        "packages": [
            {"environment": row.environment, "name": row.name, "version": row.version, "kept": row.kept}
            for row in removal.packages
        ],
        "files": [str(path) for path in removal.files],
        "system": {
            "packages": [{"name": name, "version": version} for name, version in removal.system_packages],
            "folders": [{"path": str(path), "bytes": count} for path, count in removal.system_folders],
            "commands": list(removal.commands),
        },
    }


def _kept(row: PackageRemoval) -> str:
    if row.kept is None:
        return ""
    key = row.kept if row.kept in ("gone", "changed") else "needed"
    return f"  ({say(f'toolkit.kept.{key}', name=row.kept)})"


def print_removal(removal: Removal, terminal: Console) -> None:
    """Every package and folder by name."""
    if removal.empty:
        terminal.print(say("toolkit.nothing-ours"), markup=False)
    else:
        terminal.print(say("toolkit.would-remove"), markup=False)
    for folder, count in removal.folders:
        terminal.print(f"  {folder}  {size(count)}", markup=False, soft_wrap=True)
    for row in removal.packages:
        terminal.print(f"  {row.name} {row.version}{_kept(row)}", markup=False, soft_wrap=True)
    for file in removal.files:
        terminal.print(f"  {file}", markup=False, soft_wrap=True)
    if removal.system_packages or removal.system_folders:
        terminal.print(say("toolkit.system"), markup=False)
        for name, version in removal.system_packages:
            terminal.print(f"  {name} {version}", markup=False)
        for folder, count in removal.system_folders:
            terminal.print(f"  {folder}  {size(count)}", markup=False)
        terminal.print(say("toolkit.system-commands"), markup=False)
        for command in removal.commands:
            terminal.print(f"  {command}", markup=False, soft_wrap=True)
