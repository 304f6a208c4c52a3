"""The doctor's report: console, JSON, HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from bringup.facts.environment import EnvironmentFacts
from bringup.facts.machine import MachineFacts
from bringup.findings import Examined, Finding
from bringup.report.messages import current_language, say
from bringup.report.tables import fact_rows

MARKS = {"error": "✗", "warning": "!", "info": "i"}
_STYLES = {"error": "red", "warning": "yellow", "info": "blue"}
_MOST_IN_CONSOLE = 12


def sentence(finding: Finding) -> str:
    """What it means, in words."""
    return say(f"findings.{finding.id}", **finding.parameters)


def environment_rows(environment: EnvironmentFacts) -> list[tuple[str, str]]:
    """(name, value) of the facts of an environment that people look for."""
    torch = environment.torch
    code = [report for report in environment.binaries if report.has_device_code]
    rows = [
        (say("doctor.environment"), f"{environment.root} ({environment.kind})"),
        (say("doctor.its-python"), environment.python.version),
        (
            "torch",
            f"{torch.version} (CUDA {torch.cuda})"
            if torch and torch.cuda
            else (torch.version if torch else "–"),
        ),
        (say("doctor.distributions"), str(len(environment.distributions))),
        (say("doctor.binaries"), say("doctor.binaries-row", count=len(environment.binaries), code=len(code))),
    ]
    if environment.unreadable:
        rows.append((say("doctor.unreadable"), str(len(environment.unreadable))))
    return rows


def finding_json(finding: Finding) -> dict[str, Any]:
    """The same in every language."""
    return {
        "id": finding.id,
        "severity": finding.severity,
        "subject": finding.subject,
        "evidence": [asdict(row) for row in finding.evidence],
        "error_text": finding.error_text,
        "fix": finding.fix,
        "parameters": finding.parameters,
    }


def _environment_json(environment: EnvironmentFacts) -> dict[str, Any]:
    named = [{"name": row.name, "version": row.version} for row in environment.distributions]
    code = [report for report in environment.binaries if report.has_device_code]
    return {
        "root": environment.root,
        "kind": environment.kind,
        "python": asdict(environment.python),
        "torch": asdict(environment.torch) if environment.torch else None,
        "libraries": asdict(environment.libraries),
        "distributions": named,
        "binaries": len(environment.binaries),
        "device_code": [
            {
                "path": r.path,
                "machine_code": list(r.machine_code),
                "machine_code_in_all": list(r.machine_code_in_all),
                "ptx": list(r.ptx),
            }
            for r in code
        ],
        "unreadable": [asdict(row) for row in environment.unreadable],
    }


def document(examined: Examined, findings: Sequence[Finding]) -> dict[str, Any]:
    """Schema `bringup/doctor/1`."""
    facts: dict[str, Any] = {"machine": examined.machine.to_json()}
    facts["gpus"] = [{"name": gpu.name, "capability": str(gpu.capability)} for gpu in examined.gpus]
    if examined.environment:
        facts["environment"] = _environment_json(examined.environment)
    if examined.project:
        facts["project"] = {
            "root": examined.project.root,
            "pins": [str(pin.requirement) for pin in examined.project.pins],
            "torch_loads": len(examined.project.torch_loads),
            "unreadable": [list(row) for row in examined.project.unreadable],
        }
    return {
        "schema": "bringup/doctor/1",
        "facts": facts,
        "findings": [finding_json(finding) for finding in findings],
    }


def _print_rows(rows: Sequence[tuple[str, str]], console: Console) -> None:
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        console.print(Padding(Text(f"{name:<{width}}{value}"), (0, 0, 0, 2)))


def print_report(
    examined: Examined, findings: Sequence[Finding], console: Console, machine: MachineFacts
) -> None:
    """Quiet and aligned: facts, then a mark and a sentence a finding, and the command that mends it."""
    console.print(Text(say("doctor.facts"), style="bold"))
    _print_rows(fact_rows(machine), console)
    if examined.environment:
        _print_rows(environment_rows(examined.environment), console)
    if examined.gpus:
        asked = ", ".join(f"{gpu.name} ({gpu.capability})" for gpu in examined.gpus)
        _print_rows([(say("doctor.judged-for"), asked)], console)
    console.print()
    if not findings:
        console.print(say("doctor.healthy"), markup=False)
        return
    console.print(Text(say("doctor.findings"), style="bold"))
    for finding in findings[:_MOST_IN_CONSOLE]:
        _print_finding(finding, console)
    if len(findings) > _MOST_IN_CONSOLE:
        console.print(say("doctor.more", count=len(findings) - _MOST_IN_CONSOLE), markup=False)


def _print_finding(finding: Finding, console: Console) -> None:
    head = Text.assemble(
        (MARKS[finding.severity], _STYLES[finding.severity]),
        " ",
        (finding.subject, "bold"),
        f"  {finding.id}",
    )
    console.print(head)
    console.print(Padding(Text(sentence(finding)), (0, 0, 0, 4)))
    for row in finding.evidence[:2]:
        console.print(Padding(Text(f"{row.file}: {row.what} {row.value}", style="dim"), (0, 0, 0, 4)))
    if finding.error_text:
        shown = finding.error_text.splitlines()[-1]
        console.print(Padding(Text(f"{say('doctor.you-would-see')}: {shown}"), (0, 0, 0, 4)))
    console.print(Padding(Text(f"→ {finding.fix}"), (0, 0, 0, 4)))


def page(examined: Examined, findings: Sequence[Finding], machine: MachineFacts) -> str:
    """One self-contained HTML page."""
    template = (resources.files("bringup.report") / "templates" / "doctor.html").read_text(encoding="utf-8")
    engine = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    rows = [(finding, sentence(finding)) for finding in findings]
    facts = fact_rows(machine) + (environment_rows(examined.environment) if examined.environment else [])
    carried = (
        [report for report in examined.environment.binaries if report.has_device_code]
        if examined.environment
        else []
    )
    verdicts = [
        (report, [report.runs_on(gpu.capability).status for gpu in examined.gpus]) for report in carried
    ]
    return engine.from_string(template).render(
        language=current_language(),
        say=say,
        findings=rows,
        facts=facts,
        marks=MARKS,
        gpus=examined.gpus,
        verdicts=verdicts,
    )
