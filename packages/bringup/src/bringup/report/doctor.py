"""The doctor's report for people: console and HTML page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bringup.facts.environment import EnvironmentFacts
from bringup.facts.machine import MachineFacts
from bringup.findings.kernel_images import is_loadable
from bringup.findings.model import Examined, Finding, NamedGpu
from bringup.report.doctor_document import Diagnosis, all_findings, unreadable_rows
from bringup.report.messages import current_language, say
from bringup.report.tables import fact_rows

MARKS = {"error": "✗", "warning": "!", "info": "i"}
_STYLES = {"error": "red", "warning": "yellow", "info": "blue"}
_WORST_FIRST = ("no", "partial", "ptx", "machine-code")
_MOST_IN_CONSOLE = 12
_MOST_UNREADABLE = 10


def sentence(finding: Finding) -> str:
    """What it means, in words."""
    return say(f"findings.{finding.id}", **finding.parameters)


def environment_rows(environment: EnvironmentFacts) -> list[tuple[str, str]]:
    """(name, value) of the facts of an environment that people look for."""
    torch = environment.torch
    version = torch.version if torch else "–"
    if torch and torch.cuda:
        version += f" (CUDA {torch.cuda})"
    code = sum(report.has_device_code for report in environment.binaries)
    return [
        (say("doctor.environment"), f"{environment.root} ({environment.kind})"),
        (say("doctor.its-python"), environment.python.version),
        ("torch", version),
        (say("doctor.distributions"), str(len(environment.distributions))),
        (say("doctor.binaries"), say("doctor.binaries-row", count=len(environment.binaries), code=code)),
    ]


def _compiler_rows(examined: Examined) -> list[tuple[str, str]]:
    if examined.toolkits is None:
        return []
    toolkits = ", ".join(f"{row.version} ({row.root})" for row in examined.toolkits)
    compilers = ", ".join(f"{row.cxx.name} {row.version}" for row in examined.compilers or ())
    return [("nvcc", toolkits or "–"), (say("doctor.compilers"), compilers or "–")]


def _print_rows(rows: Sequence[tuple[str, str]], console: Console) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(Text(name, no_wrap=True), Text(value))
    console.print(Padding(table, (0, 0, 0, 2)))


def _rows(diagnoses: Sequence[Diagnosis], machine: MachineFacts) -> list[tuple[str, str]]:
    rows = fact_rows(machine) + _compiler_rows(diagnoses[0].examined)
    for diagnosis in diagnoses:
        if diagnosis.examined.environment:
            rows += environment_rows(diagnosis.examined.environment)
    gpus = diagnoses[0].examined.gpus
    if gpus:
        asked = ", ".join(f"{gpu.name} ({gpu.capability})" for gpu in gpus)
        rows.append((say("doctor.judged-for"), asked))
    return rows


def print_report(diagnoses: Sequence[Diagnosis], console: Console, machine: MachineFacts) -> None:
    """Quiet and aligned: facts, then a mark and a sentence a finding, and the command that mends it."""
    console.print(Text(say("doctor.facts"), style="bold"))
    _print_rows(_rows(diagnoses, machine), console)
    console.print()
    _print_unreadable(unreadable_rows(diagnoses), console)
    findings = all_findings(diagnoses)
    if not findings:
        console.print(say("doctor.healthy"), markup=False)
        return
    console.print(Text(say("doctor.findings"), style="bold"))
    for finding in findings[:_MOST_IN_CONSOLE]:
        _print_finding(finding, console)
    if len(findings) > _MOST_IN_CONSOLE:
        console.print(say("doctor.more", count=len(findings) - _MOST_IN_CONSOLE), markup=False)


def _print_unreadable(rows: Sequence[tuple[str, str]], console: Console) -> None:
    if not rows:
        return
    console.print(Text(say("doctor.unreadable"), style="bold"))
    for path, reason in rows[:_MOST_UNREADABLE]:
        console.print(Padding(Text(f"{path}: {reason}"), (0, 0, 0, 2)))
    if len(rows) > _MOST_UNREADABLE:
        console.print(Padding(Text(f"… {len(rows) - _MOST_UNREADABLE} (--json)"), (0, 0, 0, 2)))
    console.print()


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
    for line in _folded(finding.fix, console.width):
        console.print(line, markup=False, soft_wrap=True)


def _folded(command: str, width: int) -> list[str]:
    """A command on as many lines as it needs; a POSIX shell reads them as one when they are copied."""
    lines = ["    →"]
    for word in re.findall(r'(?:"[^"]*"|\S)+', command):
        if cell_len(f"{lines[-1]} {word} \\") > width and lines != ["    →"]:
            lines[-1] += " \\"
            lines.append("     ")
        lines[-1] += f" {word}"
        while cell_len(lines[-1]) > width:  # A path that is longer than a line goes on at its very beginning.
            lines[-1:] = [f"{lines[-1][: width - 1]}\\", lines[-1][width - 1 :]]
    return lines


def _summary(findings: Sequence[Finding], gpus: Sequence[NamedGpu]) -> str:
    """How many of each severity, and for which GPUs."""
    counts = {name: sum(row.severity == name for row in findings) for name in MARKS}
    told = say("doctor.summary", **counts)
    return told + (f" · {', '.join(f'{gpu.name} ({gpu.capability})' for gpu in gpus)}" if gpus else "")


def _short(path: str, environment: EnvironmentFacts) -> str:
    """Without the folder that most of them share."""
    for folder in (*environment.site_packages, environment.root):
        if path.startswith(folder.rstrip("/") + "/"):
            return path[len(folder.rstrip("/")) + 1 :]
    return path


def page(diagnoses: Sequence[Diagnosis], machine: MachineFacts) -> str:
    """One self-contained HTML page."""
    template = (resources.files("bringup.report") / "templates" / "doctor.html").read_text(encoding="utf-8")
    engine = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    gpus = diagnoses[0].examined.gpus
    verdicts = [
        (_short(report.path, environment), report, [report.runs_on(gpu.capability).status for gpu in gpus])
        for environment in (row.examined.environment for row in diagnoses)
        for report in (environment.binaries if environment else ())
        if environment and report.has_device_code and is_loadable(report)
    ]
    # What fails comes first.
    verdicts.sort(key=lambda row: min(map(_WORST_FIRST.index, row[2]), default=0))
    return engine.from_string(template).render(
        language=current_language(),
        say=say,
        findings=[(finding, sentence(finding)) for finding in all_findings(diagnoses)],
        facts=_rows(diagnoses, machine),
        unreadable=unreadable_rows(diagnoses),
        summary=_summary(all_findings(diagnoses), gpus),
        marks=MARKS,
        gpus=gpus,
        verdicts=verdicts,
        statuses={name: say(f"doctor.status-{name}") for name in ("machine-code", "ptx", "partial", "no")},
    )
