"""Facts, plans and proofs as tables for the terminal (80 columns, readable without colour)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bringup.facts.gpus import usable_gpus
from bringup.facts.machine import MachineFacts
from bringup.plan.model import Choice, Plan, Reason
from bringup.plan.steps import (
    BuildExtension,
    BuildTorch,
    ConvertCheckpoints,
    CreateEnvironment,
    FetchSource,
    FetchWeights,
    InstallOwn,
    InstallPackages,
    InstallShims,
    PatchSource,
    Step,
)
from bringup.recipes.schema import Recipe
from bringup.report.messages import current_language, say
from bringup.report.progress import brief, duration, size, step_title
from bringup.report.run_report import Timed
from bringup.steps.verify import Check, Proof


def _grid(*headings: str) -> Table:
    table = Table(box=None, show_header=bool(headings), pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings or ("", ""):
        table.add_column(heading, overflow="fold", header_style="bold")
    return table


def _row(table: Table, *cells: str) -> None:
    """Cells as they are: `rembg[cpu]` holds no markup."""
    table.add_row(*map(Text, cells))


def fact_rows(facts: MachineFacts) -> list[tuple[str, str]]:
    """(name, value) of every fact, in words."""
    host = facts.host
    rows: list[tuple[str, str]] = []
    survey = facts.gpus
    usable = usable_gpus(survey)
    for gpu in usable:
        text = say("facts.gpu-row", name=gpu.name, capability=gpu.capability, memory=size(gpu.memory))
        rows.append((say("facts.gpu"), text))
    if not usable:
        rows.append((say("facts.gpu"), survey.trouble or say("facts.no-gpu")))
    rows += [(say("facts.gpu"), say(f"facts.{vendor}")) for vendor in survey.others]
    if survey.driver:
        cuda = ".".join(map(str, survey.driver.cuda))
        text = say("facts.driver-row", version=survey.driver.version, cuda=cuda)
        rows.append((say("facts.driver"), text))
    system = f"{host.system} {host.architecture}"
    if host.wsl:
        system += f" (WSL{host.wsl})"
    rows.append((say("facts.system"), system + (f", glibc {host.glibc}" if host.glibc else "")))
    limited = (
        say("facts.limited", installed=host.cores_installed) if host.cores < host.cores_installed else ""
    )
    rows.append((say("facts.cores"), f"{host.cores}{limited}"))
    memory = say("facts.memory-row", total=size(host.memory_total), available=size(host.memory_available))
    rows.append((say("facts.memory"), memory))
    rows.append((say("facts.disk"), say("facts.disk-row", free=size(facts.disk.free), path=facts.disk.path)))
    pythons = dict.fromkeys(python.version for python in facts.interpreters)
    if pythons:
        rows.append((say("facts.python"), ", ".join(pythons)))
    index = [f"{key.rpartition('.')[2]} {value}" for key, value in facts.indexes.pip if _is_source(key)]
    rows.append((say("facts.index"), "; ".join(dict.fromkeys(index)) or say("facts.index-default")))
    if facts.indexes.uv:
        rows.append(("uv", facts.indexes.uv))
    for name, value in facts.indexes.proxy:
        rows.append((name, value))
    return rows


def _is_source(key: str) -> bool:
    return key.rpartition(".")[2] in ("index-url", "extra-index-url", "find-links", "no-index")


def facts_table(facts: MachineFacts) -> Table:
    """Facts, one a line."""
    table = _grid()
    for name, value in fact_rows(facts):
        _row(table, name, value)
    return table


def reason(why: Reason) -> str:
    """A planner's reason in words."""
    return say(f"reasons.{why.id}", **why.parameters)


def describe_step(step: Step, plan: Plan) -> str:
    """What a step does, in words."""
    if isinstance(step, CreateEnvironment):
        return f"Python {step.python} · {step.interpreter}"
    if isinstance(step, InstallPackages):
        rows = [plan.package(name) for name in step.packages]
        named = ", ".join(f"{row.name} {row.version}" for row in rows[:3])
        more = say("plan.and-more", count=len(rows) - 3) if len(rows) > 3 else ""
        return f"{named}{more} · {size(sum(row.size or 0 for row in rows))}"
    if isinstance(step, InstallOwn):
        return say("plan.own")
    if isinstance(step, FetchSource):
        return (
            f"{step.local or step.repository}"
            + ("" if step.local else f" @ {step.commit[:12]}")
            + f" · {step.licence}"
        )
    if isinstance(step, PatchSource):
        return say("plan.patch", files=step.files)
    if isinstance(step, InstallShims):
        return say("plan.shims", names=", ".join(step.shims))
    if isinstance(step, BuildExtension):
        return say("plan.build", name=step.distribution, architectures=", ".join(step.architectures))
    if isinstance(step, BuildTorch):
        listed = ", ".join(step.architectures)
        return say("plan.build-torch", version=step.version, architectures=listed, jobs=step.jobs)
    if isinstance(step, FetchWeights):
        origin = step.local or step.repository or step.url or ""
        return f"{origin} · {size(step.size)}" if step.size else origin
    if isinstance(step, ConvertCheckpoints):
        return f"{step.folder} · {step.class_path} → {step.layout}"
    gpus = ", ".join(step.gpus) or "CPU"
    computes = "matrix_product" in step.probes
    return say("plan.proof" if computes else "plan.proof-unrun", imports=len(step.imports), gpus=gpus)


def plan_table(plan: Plan) -> Table:
    """The steps, in order."""
    table = _grid(say("plan.step"), say("plan.does"))
    for step in plan.steps:
        _row(table, step_title(step.id), describe_step(step, plan))
    cost = say(
        "plan.cost",
        download=size(plan.estimate.download),
        disk=size(plan.estimate.disk),
        duration=duration(plan.estimate.seconds),
    )
    _row(table, say("plan.costs"), cost)
    return table


def limits(recipe: Recipe) -> list[str]:
    """What the recipe does not repair, in words."""
    return [say("plan.limit", text=getattr(row, current_language())) for row in recipe.limits]


def _rejected_rows(choice: Choice, explain: bool) -> list[str]:
    rows = [f"{row.what}: {reason(row.why)}" for row in choice.rejected]
    return rows if explain else []


def choices_table(plan: Plan, explain: bool) -> Table:
    """What was chosen and why; with `explain`, what was rejected and why."""
    table = _grid(say("plan.choice"), say("plan.chosen"), say("plan.why"))
    for choice in plan.choices:
        _row(table, choice.subject, choice.chosen, reason(choice.why))
        for text in _rejected_rows(choice, explain):
            _row(table, "", say("plan.rejected"), text)
    return table


def check_title(check: Check) -> str:
    """What a check proves, in words."""
    file, on, gpu = check.subject.partition(" on ")
    if check.id == "architectures" and on:
        return say("checks.architectures-for", file=file, gpu=gpu)
    return say(f"checks.{check.id}", subject=check.subject)


def check_seen(check: Check) -> str:
    """What a check saw, in the reader's language."""
    return say(f"seen.{check.seen}", **check.parameters) if check.seen else check.detail


def proof_table(proof: Proof) -> Table:
    """Every check with its mark."""
    table = _grid("", say("checks.title"), say("checks.seen"))
    for check in proof.checks:
        _row(table, "✓" if check.ok else "✗", check_title(check), check_seen(check))
    return table


def times_table(rows: Sequence[Timed]) -> Table:
    """Every stage with its time, and below it what the workload reported of itself."""
    table = _grid(say("report.stage"), say("report.time"))
    table.columns[1].justify = "right"
    for row in rows:
        reused = f" ({say('report.reused')})" if row.reused else ""
        _row(table, f"{row.title}{reused}", duration(row.seconds))
        for name, told in row.parts:
            _row(table, f"  {name}", told if isinstance(told, str) else brief(told))
    return table


def home_relative(path: Path) -> str:
    """A path as people write it."""
    try:
        return f"~/{path.relative_to(Path.home()).as_posix()}"
    except ValueError:
        return str(path)
