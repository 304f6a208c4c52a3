"""What a rule says: identifiers, parameters and evidence. Words for people are made in `report`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import Catalog
from bringup.facts.environment import EnvironmentFacts
from bringup.facts.gpus import DriverFacts
from bringup.facts.machine import MachineFacts
from bringup.facts.project import ProjectFacts
from bringup.facts.toolchains import CudaToolkit, HostCompiler

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Evidence:
    """Where it stands: a file, what of it (a section, symbol or key), and the value that was read."""

    file: str
    what: str
    value: str


@dataclass(frozen=True)
class Finding:
    """One thing that will fail, or is worth knowing.

    Attributes:
        id: stable name of the kind of finding.
        subject: what it is about: a distribution, a file, a GPU.
        error_text: what the user would see when it fails; "" where nothing is printed.
        fix: the command that mends it.
        parameters: for the words of `findings.<id>`.
    """

    id: str
    severity: Severity
    subject: str
    evidence: tuple[Evidence, ...]
    error_text: str
    fix: str
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NamedGpu:
    """A GPU that is asked about: as the user or the driver calls it."""

    name: str
    capability: ComputeCapability


@dataclass(frozen=True)
class Examined:
    """Everything that a rule may look at.

    Attributes:
        driver: of this machine; None where it is unknown or the question is about another machine.
        windows_driver: whether Windows' driver minimums apply (Windows itself and WSL2).
        toolkits, compilers: what would compile here; None where nothing is to be compiled, or elsewhere.
    """

    catalog: Catalog
    machine: MachineFacts
    gpus: tuple[NamedGpu, ...] = ()
    driver: DriverFacts | None = None
    windows_driver: bool = False
    environment: EnvironmentFacts | None = None
    project: ProjectFacts | None = None
    toolkits: tuple[CudaToolkit, ...] | None = None
    compilers: tuple[HostCompiler, ...] | None = None


Rule = Callable[[Examined], Iterator[Finding]]
