"""What a plan can tell `bringup apply` to do: one row a step, small, idempotent, shown before it is done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from bringup.binaries.architectures import Architecture, ComputeCapability
from bringup.recipes.fields import (
    Address,
    ClassPath,
    CommitHash,
    Condition,
    Expression,
    InsidePath,
    Module,
    Probe,
    Sha256,
    Variable,
    Version,
)

Value = str | int | float | bool
# A step's name is also that of its log.
StepId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Distribution = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
Bytes = Annotated[int, Field(ge=0)]


def _chip(text: str) -> str:
    return ComputeCapability.parse(text).sm


def _architecture(text: str) -> str:
    Architecture.parse(text)
    return text


def _absolute(text: str) -> str:
    # A line of a `.pth` file that begins with `import` would be run.
    if not Path(text).is_absolute() or re.search(r"[\r\n]", text):
        raise ValueError(f"'{text}' is no absolute path")
    return text


Chip = Annotated[str, AfterValidator(_chip)]
ArchitectureName = Annotated[str, AfterValidator(_architecture)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class Row(BaseModel):
    """Base of the plan's tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CreateEnvironment(Row):
    """A new, empty environment from an interpreter. `overlay`: folders whose packages show through."""

    kind: Literal["create-environment"] = "create-environment"
    id: StepId
    python: Version
    interpreter: AbsolutePath
    overlay: tuple[AbsolutePath, ...] = ()


class InstallPackages(Row):
    """Locked packages, without looking at their requirements again."""

    kind: Literal["install-packages"] = "install-packages"
    id: StepId
    packages: tuple[Distribution, ...]


class InstallOwn(Row):
    """One of our own packages, from the checkout or a bundled wheel. `content`: hash of its source."""

    kind: Literal["install-own"] = "install-own"
    id: StepId
    package: Distribution
    content: str


class FetchSource(Row):
    """The workload's code at its commit, or a copy of a folder that was given.

    Attributes:
        submodules: path below the source → commit; their addresses stand in the source's `.gitmodules`.
        recursive: all submodules at the commits that the source names.
        local: the given folder, and `content` the hash of what was in it when it was planned.
        importable: the environment's Python finds the packages in it, after those that are installed.
    """

    kind: Literal["fetch-source"] = "fetch-source"
    id: StepId
    repository: Address
    commit: CommitHash
    submodules: dict[InsidePath, CommitHash] = {}
    recursive: bool = False
    licence: str = ""
    local: AbsolutePath | None = None
    content: str | None = None
    importable: bool | None = None


class PatchSource(Row):
    """A source edit by meaning; see `bringup.recipes.schema.PatchRow`."""

    kind: Literal["patch-source"] = "patch-source"
    id: StepId
    of: str = ""
    files: InsidePath
    fault: Expression
    absent: Expression | None = None
    action: Literal["insert-include", "replace", "rewrite-torch-load"]
    value: str = ""
    when: Condition | None = None


class InstallShims(Row):
    """Pure-Python stand-ins of portable-kernels under the names of the originals."""

    kind: Literal["install-shims"] = "install-shims"
    id: StepId
    shims: tuple[Module, ...]


class BuildExtension(Row):
    """A compiled extension, built for these architectures against the environment's torch.

    Attributes:
        source: None: it lies in `folder` of the workload's own source.
        memory_per_job: bytes that one compiler process was seen to take, where no run has measured it.
        minutes: what it took on 16 cores. `patches`: of its source.
    """

    kind: Literal["build-extension"] = "build-extension"
    id: StepId
    distribution: Distribution
    imports: tuple[Module, ...] = ()
    source: FetchSource | None = None
    folder: InsidePath = ""
    subfolder: InsidePath = ""
    architectures: tuple[Chip, ...]
    environment: dict[Variable, str] = {}
    memory_per_job: Annotated[int, Field(gt=0)] = 2_000_000_000
    minutes: Annotated[float, Field(ge=0)] = 2.0
    patches: tuple[PatchSource, ...] = ()

    @model_validator(mode="after")
    def _has_an_origin(self) -> BuildExtension:
        if self.source is None and not self.folder:
            raise ValueError("either a source or the folder of the workload's own")
        return self


class BuildTorch(Row):
    """PyTorch itself, compiled for these architectures: where no index has a build for the chip.

    Attributes:
        version: what it calls itself, "2.13.0+cu130". `cuda`: the toolkit's release.
        memory, disk: bytes that the host must have; checked again before it begins.
    """

    kind: Literal["build-torch"] = "build-torch"
    id: StepId
    source: FetchSource
    version: Version
    cuda: Version
    architectures: tuple[ArchitectureName, ...]
    jobs: Annotated[int, Field(ge=1)]
    memory: Bytes
    disk: Bytes


class FetchWeights(Row):
    """Files that the workload reads: of a hub repository, or behind an address. `local`: where they are.

    `files`: name → sha256, "" where it is not known.
    """

    kind: Literal["fetch-weights"] = "fetch-weights"
    id: StepId
    repository: str | None = None
    revision: str | None = None
    files: dict[InsidePath, Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]] = {}
    url: str | None = None
    mirrors: tuple[str, ...] = ()
    size: Bytes | None = None
    sha256: Sha256 | None = None
    destination: InsidePath = ""
    local: AbsolutePath | None = None


class ConvertCheckpoints(Row):
    """Pickled models below `folder`, converted and rebuilt; see `bringup.recipes.schema.CheckpointRow`."""

    kind: Literal["convert-checkpoints"] = "convert-checkpoints"
    id: StepId
    folder: AbsolutePath
    files: InsidePath
    class_path: ClassPath
    keywords: dict[str, Value] = {}
    rename: dict[str, str] = {}
    layout: Literal["safetensors", "state-dict", "module"] = "safetensors"
    destination: str = "{path}"
    python_path: tuple[str, ...] = ()


class Verify(Row):
    """The proof. The environment is switched in only when it holds.

    `arguments`: of the probes, by name. `versions`: distributions that must be installed exactly so.
    """

    kind: Literal["verify"] = "verify"
    id: StepId
    imports: tuple[Module, ...] = ()
    probes: tuple[Probe, ...] = ()
    arguments: dict[str, dict[str, str]] = {}
    versions: dict[Distribution, Version] = {}
    gpus: tuple[Chip, ...] = ()


Step = Annotated[
    CreateEnvironment
    | InstallPackages
    | InstallOwn
    | FetchSource
    | PatchSource
    | InstallShims
    | BuildExtension
    | BuildTorch
    | FetchWeights
    | ConvertCheckpoints
    | Verify,
    Field(discriminator="kind"),
]
