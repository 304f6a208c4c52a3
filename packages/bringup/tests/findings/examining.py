"""What the tests of rules share: examine an environment or a project for GPUs that need not be here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import load
from bringup.facts.environment import read_environment
from bringup.facts.gpus import DriverFacts
from bringup.facts.machine import MachineFacts
from bringup.facts.project import read_project
from bringup.findings.model import Examined, Finding, NamedGpu
from bringup.findings.rules import find
from bringup.report.doctor import sentence

from .commands import assert_can_be_typed

RTX_5090 = NamedGpu("GeForce RTX 5090", ComputeCapability(12, 0))
H200 = NamedGpu("H200", ComputeCapability(9, 0))
A100 = NamedGpu("A100", ComputeCapability(8, 0))
V100 = NamedGpu("V100", ComputeCapability(7, 0))
GTX_1080 = NamedGpu("GeForce GTX 1080", ComputeCapability(6, 1))
K80 = NamedGpu("Tesla K80", ComputeCapability(3, 7))
GTX_680 = NamedGpu("GeForce GTX 680", ComputeCapability(3, 0))


def examine(
    machine: MachineFacts,
    root: Path | None = None,
    *gpus: NamedGpu,
    driver: str | None = None,
    driver_cuda: tuple[int, int] = (12, 4),
    project: Path | None = None,
    bare_system: bool = False,
) -> list[Finding]:
    """All findings; each must have evidence, a command that can be typed, and words.

    Args:
        bare_system: the loader finds nothing in this machine's folders (it may have what a test does without).
    """
    environment = read_environment(root) if root else None
    if environment and bare_system:
        environment = replace(environment, loader_folders=(), base=None)
    examined = Examined(
        catalog=load(),
        machine=machine,
        gpus=gpus,
        driver=DriverFacts(driver, driver_cuda) if driver else None,
        environment=environment,
        project=read_project(project) if project else None,
    )
    findings = find(examined)
    for finding in findings:
        assert finding.evidence, f"{finding.id} has no evidence"
        assert_can_be_typed(finding.fix)
        assert sentence(finding)
    return findings


def ids(findings: list[Finding], severity: str | None = None) -> list[str]:
    """Ids in order, of one severity if asked for."""
    return [row.id for row in findings if severity in (None, row.severity)]
