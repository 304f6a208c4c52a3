"""The doctor's document for programs: `bringup/doctor/1`, described by `schemas/doctor.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bringup.facts.environment import EnvironmentFacts
from bringup.facts.project import ProjectFacts
from bringup.findings.model import Examined, Finding


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at together and what was found; an image has one for each of its environments."""

    examined: Examined
    findings: tuple[Finding, ...]


def finding_document(finding: Finding) -> dict[str, Any]:
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


def all_findings(diagnoses: Sequence[Diagnosis]) -> list[Finding]:
    """Errors first; what is said of the machine or the project alone is said once."""
    found: dict[object, Finding] = {}
    for diagnosis in diagnoses:
        for finding in diagnosis.findings:
            key = (finding.id, finding.subject, finding.evidence, finding.parameters.get("gpu"))
            found.setdefault(key, finding)
    order = ("error", "warning", "info")
    return sorted(found.values(), key=lambda finding: order.index(finding.severity))


def _environment(environment: EnvironmentFacts) -> dict[str, Any]:
    code = [report for report in environment.binaries if report.has_device_code]
    return {
        "root": environment.root,
        "kind": environment.kind,
        "python": asdict(environment.python),
        "torch": asdict(environment.torch) if environment.torch else None,
        "libraries": asdict(environment.libraries),
        "distributions": [{"name": row.name, "version": row.version} for row in environment.distributions],
        "binaries": len(environment.binaries),
        "device_code": [
            {
                "path": report.path,
                "machine_code": list(report.machine_code),
                "machine_code_in_all": list(report.machine_code_in_all),
                "ptx": list(report.ptx),
            }
            for report in code
        ],
        "unreadable": [asdict(row) for row in environment.unreadable],
    }


def _project(project: ProjectFacts) -> dict[str, Any]:
    return {
        "root": project.root,
        "pins": [str(pin.requirement) for pin in project.pins],
        "torch_loads": len(project.torch_loads),
        "unreadable": [{"path": path, "reason": reason} for path, reason in project.unreadable],
    }


def _compilers(examined: Examined) -> dict[str, Any]:
    toolkits = [
        {"root": str(row.root), "version": row.version, "origin": row.origin}
        for row in examined.toolkits or ()
    ]
    compilers = [
        {"path": str(row.cxx), "family": row.family, "version": row.version}
        for row in examined.compilers or ()
    ]
    return {"toolkits": toolkits, "host_compilers": compilers}


def doctor_document(diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    """Facts and findings. `facts.environment` is the first one's, `facts.environments` has all."""
    examined = diagnoses[0].examined
    facts: dict[str, Any] = {"machine": examined.machine.to_json()}
    facts["gpus"] = [{"name": gpu.name, "capability": str(gpu.capability)} for gpu in examined.gpus]
    environments = [_environment(row.examined.environment) for row in diagnoses if row.examined.environment]
    if environments:
        facts["environment"] = environments[0]
        facts["environments"] = environments
    if examined.project:
        facts["project"] = _project(examined.project)
    if examined.toolkits is not None:
        facts["compilers"] = _compilers(examined)
    return {
        "schema": "bringup/doctor/1",
        "facts": facts,
        "findings": [finding_document(finding) for finding in all_findings(diagnoses)],
    }


def unreadable_rows(diagnoses: Sequence[Diagnosis]) -> list[tuple[str, str]]:
    """(path, why) of all that could not be read, each once."""
    rows: list[tuple[str, str]] = []
    for diagnosis in diagnoses:
        environment, project = diagnosis.examined.environment, diagnosis.examined.project
        rows += [(row.path, row.reason) for row in environment.unreadable] if environment else []
        rows += project.unreadable if project else []
    return list(dict.fromkeys(rows))
