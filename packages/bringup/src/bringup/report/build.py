"""What was built, as a table for people and a document for programs (`schemas/build.json`)."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bringup.errors import BringupError
from bringup.report.messages import knows, say, say_error
from bringup.report.progress import duration, size
from bringup.report.tables import home_relative
from bringup.steps.building.architectures import Wanted
from bringup.steps.building.build import BuildResult
from bringup.steps.building.toolkit_choice import NoToolkit, RejectedToolkit

Failure = tuple[str, BringupError]
_COUNT = re.compile(r"\[\s*\d+/\d+\]")
_SOURCE = re.compile(r"([^\s/\\]+\.(?:cu|cpp|cxx|cc|c))(?=\.o\b|[\s'\"]|$)")
_WIDEST = 76


def step_title(step: str) -> str:
    """Title of a step of a build."""
    return say(f"build.step.{step}")


def line_text(line: str) -> str | None:
    """What to show of a build's line: of one that counts, the count and the file instead of the command."""
    count = _COUNT.search(line)
    if count is None:
        return line.strip()[:_WIDEST] or None
    sources = _SOURCE.findall(line)
    what = sources[-1] if sources else line[count.end() :].strip()
    return f"{count[0]} {what}"[:_WIDEST]


def purpose(wanted: Wanted, environment: str) -> str:
    """One line before the work: which architectures, which GPUs, which environment."""
    names = [f"{gpu.name} ({gpu.capability.sm})" for gpu in wanted.gpus]
    if wanted.given:
        names = [row.sm for row in wanted.given.machine_code] + [row.compute for row in wanted.given.ptx]
    return say("build.for", architectures=", ".join(names), environment=environment)


def _reason(row: RejectedToolkit) -> dict[str, str]:
    return {"toolkit": row.toolkit, "reason": row.reason, "detail": row.detail}


def _one(result: BuildResult) -> dict[str, Any]:
    toolkit, compiler = result.choice.toolkit, result.choice.compiler
    return {
        "ok": True,
        "source": result.source,
        "name": result.project.name,
        "kind": result.project.kind,
        "product": str(result.product),
        "sha256": result.sha256,
        "cached": result.cached,
        "seconds": round(result.seconds, 3),
        "toolkit": {
            "version": toolkit.release,
            "root": str(toolkit.root),
            "origin": toolkit.origin,
            "rejected": [_reason(row) for row in result.choice.rejected],
        },
        "compiler": {"path": str(compiler.cxx), "family": compiler.family, "version": compiler.version},
        "architectures": {
            "torch": result.choice.architectures.torch,
            "cmake": result.choice.architectures.cmake,
            "machine_code": [row.sm for row in result.choice.architectures.machine_code],
            "ptx": [row.compute for row in result.choice.architectures.ptx],
        },
        "jobs": asdict(result.limits),
        "attempts": [asdict(row) for row in result.attempts],
        "binaries": [asdict(row) for row in result.proof.binaries],
        "imported": result.proof.imported,
        "modules": list(result.proof.modules),
        "needs": list(result.proof.needs),
        "log": str(result.log),
    }


def document(results: list[BuildResult | Failure], environment: str) -> dict[str, Any]:
    """`bringup/build/1`."""
    builds = []
    for result in results:
        if isinstance(result, BuildResult):
            builds.append(_one(result))
        else:
            source, error = result
            facts = {name: str(value) for name, value in error.parameters.items()}
            told = {"id": error.id, "text": say_error(error), "parameters": facts}
            builds.append({"ok": False, "source": source, "error": told})
    ok = all(row["ok"] for row in builds)
    return {"schema": "bringup/build/1", "ok": ok, "environment": environment, "builds": builds}


def print_result(result: BuildResult, terminal: Console) -> None:
    """One table a source."""
    table = Table(
        title=f"{say('build.title')}: {result.project.name}", title_justify="left", show_header=False
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")

    def row(key: str, text: str) -> None:
        table.add_row(say(f"build.{key}"), escape(text))

    row("wheel", home_relative(result.product))
    for binary in result.proof.binaries:
        row("carries", f"{Path(binary.path).name}: {' '.join((*binary.machine_code, *binary.ptx))}")
        for chip, status in binary.runs_on.items():
            table.add_row("", escape(f"{chip}: {say(f'build.status.{status}')}"))
    imported = result.proof.imported
    row("imported", say("build.not-tried") if imported is None else ", ".join(result.proof.modules) or "–")
    if result.proof.needs:
        row("needs", ", ".join(result.proof.needs))
    toolkit, compiler = result.choice.toolkit, result.choice.compiler
    words = say(
        "build.toolkit-row", release=toolkit.release, compiler=compiler.family, version=compiler.version
    )
    row("toolkit", f"{words} ({say(f'build.origin-{toolkit.origin}')}: {home_relative(toolkit.root)})")
    _print_work(result, row)
    terminal.print(table)


def _print_work(result: BuildResult, row: Any) -> None:
    if result.cached:
        row("seconds", f"{duration(result.seconds)}, {say('build.cached')}")
        return
    limits = result.limits
    origin = say("build.measured" if limits.measured else "build.assumed")
    memory, unit = size(limits.memory), size(limits.per_unit)
    text = say(
        "build.jobs-row", jobs=limits.jobs, cores=limits.cores, memory=memory, unit=unit, origin=origin
    )
    row("jobs", text)
    last = result.attempts[-1]
    row("peak", say("build.peak-row", peak=size(last.peak), together=size(last.together)))
    if len(result.attempts) > 1:
        for attempt in result.attempts:
            key = f"build.outcome.{attempt.outcome}"
            outcome = say(key) if knows(key) else attempt.outcome
            took = duration(attempt.seconds)
            row("attempts", say("build.attempt", jobs=attempt.jobs, duration=took, outcome=outcome))
    row("seconds", duration(result.seconds))
    row("log", home_relative(result.log))


def print_failure(failure: Failure, terminal: Console) -> None:
    """The paragraph of one source that did not build."""
    source, error = failure
    terminal.print(say("build.failed", source=source), style="red", markup=False)
    terminal.print(say_error(error), style="red", markup=False)
    for row in error.rejected if isinstance(error, NoToolkit) else ():
        reason = say(f"build.toolkit-reason.{row.reason}", detail=row.detail)
        terminal.print(f"  {row.toolkit}: {reason}", style="red", markup=False)
