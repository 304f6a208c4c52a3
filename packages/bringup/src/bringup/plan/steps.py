"""What a plan can tell `bringup apply` to do: one row a step, small, idempotent, shown before it is done."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Value = str | int | float | bool
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Row(BaseModel):
    """Base of the plan's tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CreateEnvironment(Row):
    """A new, empty environment from an interpreter. `overlay`: folders whose packages show through."""

    kind: Literal["create-environment"] = "create-environment"
    id: str
    python: str
    interpreter: str
    overlay: tuple[str, ...] = ()


class InstallPackages(Row):
    """Locked packages, without looking at their requirements again."""

    kind: Literal["install-packages"] = "install-packages"
    id: str
    packages: tuple[str, ...]


class InstallOwn(Row):
    """One of our own packages, from the checkout or a bundled wheel. `content`: hash of its source."""

    kind: Literal["install-own"] = "install-own"
    id: str
    package: str
    content: str


class FetchSource(Row):
    """The workload's code at its commit, or a copy of a folder that was given.

    Attributes:
        submodules: path below the source → commit; their addresses stand in the source's `.gitmodules`.
        recursive: all submodules at the commits that the source names.
        local: the given folder, and `content` the hash of what was in it when it was planned.
    """

    kind: Literal["fetch-source"] = "fetch-source"
    id: str
    repository: str
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    submodules: dict[str, str] = {}
    recursive: bool = False
    licence: str = ""
    local: str | None = None
    content: str | None = None


class PatchSource(Row):
    """A source edit by meaning; see `bringup.recipes.schema.PatchRow`."""

    kind: Literal["patch-source"] = "patch-source"
    id: str
    of: str = ""
    files: str
    fault: str
    absent: str | None = None
    action: Literal["insert-include", "replace", "rewrite-torch-load"]
    value: str = ""
    when: str | None = None


class InstallShims(Row):
    """Pure-Python stand-ins of portable-kernels under the names of the originals."""

    kind: Literal["install-shims"] = "install-shims"
    id: str
    shims: tuple[str, ...]


class BuildExtension(Row):
    """A compiled extension, built for these architectures against the environment's torch.

    Attributes:
        source: None: it lies in `folder` of the workload's own source.
        memory_per_job: bytes that one compiler process was seen to take, where no run has measured it.
        minutes: what it took on 16 cores. `patches`: of its source.
    """

    kind: Literal["build-extension"] = "build-extension"
    id: str
    distribution: str
    imports: tuple[str, ...] = ()
    source: FetchSource | None = None
    folder: str = ""
    subfolder: str = ""
    architectures: tuple[str, ...]
    environment: dict[str, str] = {}
    memory_per_job: int = 2_000_000_000
    minutes: float = 2.0
    patches: tuple[PatchSource, ...] = ()


class BuildTorch(Row):
    """PyTorch itself, compiled for these architectures: where no index has a build for the chip.

    Attributes:
        version: what it calls itself, "2.13.0+cu130". `cuda`: the toolkit's release.
        memory, disk: bytes that the host must have; checked again before it begins.
    """

    kind: Literal["build-torch"] = "build-torch"
    id: str
    source: FetchSource
    version: str
    cuda: str
    architectures: tuple[str, ...]
    jobs: int
    memory: int
    disk: int


class FetchWeights(Row):
    """Files that the workload reads: of a hub repository, or behind an address. `local`: where they are.

    `files`: name → sha256, "" where it is not known.
    """

    kind: Literal["fetch-weights"] = "fetch-weights"
    id: str
    repository: str | None = None
    revision: str | None = None
    files: dict[str, Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]] = {}
    url: str | None = None
    mirrors: tuple[str, ...] = ()
    size: int | None = None
    sha256: Sha256 | None = None
    destination: str = ""
    local: str | None = None


class ConvertCheckpoints(Row):
    """Pickled models below `folder`, converted and rebuilt; see `bringup.recipes.schema.CheckpointRow`."""

    kind: Literal["convert-checkpoints"] = "convert-checkpoints"
    id: str
    folder: str
    files: str
    class_path: str
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
    id: str
    imports: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    arguments: dict[str, dict[str, str]] = {}
    versions: dict[str, str] = {}
    gpus: tuple[str, ...] = ()


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
