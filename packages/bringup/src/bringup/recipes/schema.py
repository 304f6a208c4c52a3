"""What a recipe may say. Parsed from TOML; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bringup.recipes.fields import (
    Address,
    ClassPath,
    CommitHash,
    Condition,
    Expression,
    InsidePath,
    Module,
    Name,
    Probe,
    RequirementText,
    Sha256,
    Variable,
    Version,
    VersionRange,
)

SCHEMA = "bringup/recipe/1"


# Names of steps that plans have besides a recipe's own.
_STEPS = ("environment", "source", "torch", "packages", "extensions", "shims", "verify")


def _distribution(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def _overlap(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether two rows meet in some profile; rows that name none are in all."""
    return not first or not second or bool(set(first) & set(second))


class Row(BaseModel):
    """Base of all tables: frozen, and a misspelled key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Words(Row):
    """A sentence in both languages."""

    en: str
    zh: str


class Source(Row):
    """Where the workload's code comes from; absent when it is one of our own packages.

    `licence_note` is shown before anything is fetched.
    """

    repository: Address
    commit: CommitHash
    subfolder: InsidePath = ""
    licence: str
    licence_note: Words | None = None
    submodules: dict[InsidePath, CommitHash] = {}


class TorchRange(Row):
    """Releases of torch, CUDA versions ("12.8"; empty: any), and companions of the same release."""

    range: VersionRange
    companions: tuple[Literal["torchvision", "torchaudio"], ...] = ()
    cuda: tuple[str, ...] = ()


class TorchNeeds(TorchRange):
    """Which torch the workload runs with; `profiles` that need another one."""

    profiles: dict[str, TorchRange] = {}


class RequirementRow(Row):
    """One distribution.

    Attributes:
        spec: as the workload pins it, for example `transformers==4.35.0`.
        loosened: what stands in its place where the pin cannot hold, and `why`.
        drop: the workload lists it but never imports it.
        own: a package of this repository, installed from the checkout or a bundled wheel.
        profiles: only in these profiles; empty means all.
    """

    spec: RequirementText
    loosened: RequirementText | None = None
    drop: bool = False
    own: bool = False
    why: Words | None = None
    profiles: tuple[str, ...] = ()


class ExtensionBuild(Row):
    """How a compiled extension is built: from a repository, or from `folder` of the workload's own source."""

    repository: Address | None = None
    commit: CommitHash | None = None
    folder: InsidePath | None = None
    subfolder: InsidePath = ""
    licence: str
    backend: Literal["setuptools", "scikit-build-core", "cmake"]
    environment: dict[Variable, str] = {}
    memory_per_job_gb: Annotated[float, Field(gt=0)] = 2.0
    minutes: Annotated[float, Field(gt=0)] = 2.0
    submodules: dict[InsidePath, CommitHash] = {}

    @model_validator(mode="after")
    def _has_one_origin(self) -> ExtensionBuild:
        if (self.repository is None) == (self.folder is None):
            raise ValueError("either repository (with commit) or folder")
        if self.repository is not None and self.commit is None:
            raise ValueError(f"which commit of {self.repository}?")
        return self


class ExtensionRow(Row):
    """A compiled extension; the planner takes the first way that serves: wheel, portable, build.

    Attributes:
        distribution: its name on an index, `imports` the modules that the workload imports.
        ways: in order of preference; "drop" when nothing imports it.
        pin: version of the wheel or of the original that the portable replacement stands for.
    """

    distribution: Name
    imports: tuple[Module, ...] = ()
    ways: Annotated[tuple[Literal["wheel", "portable", "build", "drop"], ...], Field(min_length=1)]
    pin: Version | None = None
    portable: str | None = None
    build: ExtensionBuild | None = None
    why: Words | None = None
    profiles: tuple[str, ...] = ()


class PatchRow(Row):
    """A source edit by meaning, applied only where the fault is present.

    Attributes:
        of: the extension whose source is edited; empty: the workload's own.
        files: glob below the source folder.
        fault: regular expression whose match shows the fault; no match, no edit.
        absent: regular expression that shows that it is mended already.
        kind: what is done: `insert-include` (value: the header), `replace` (fault → value),
            `rewrite-torch-load` (see `bringup rewrite`).
        when: only for these versions (gcc, torch), for example "gcc>=13".
    """

    id: Name
    of: str = ""
    files: InsidePath
    fault: Expression
    absent: Expression | None = None
    kind: Literal["insert-include", "replace", "rewrite-torch-load"]
    value: str = ""
    when: Condition | None = None
    why: Words
    profiles: tuple[str, ...] = ()


CheckpointLayout = Literal["safetensors", "state-dict", "module"]


class CheckpointRow(Row):
    """Old pickled models to convert and rebuild.

    `keywords` may name `{attribute:rigid}` (read from the pickle) and `{folder}` (of the file's path).
    `layouts`: profile → layout, where a profile's consumer expects another one than `layout`.
    """

    files: str
    class_path: ClassPath
    keywords: dict[str, str | int | float | bool] = {}
    rename: dict[str, str] = {}
    layout: CheckpointLayout = "safetensors"
    layouts: dict[str, CheckpointLayout] = {}
    destination: str = "{path}"
    python_path: tuple[str, ...] = ()


class WeightsRow(Row):
    """Files to fetch: of a hub repository (`files`: name → sha256, or "" where unknown), or behind a URL.

    `size`: bytes, of all together. A URL's own hash is `sha256`. `unless`: an option of the workload that
    does without them.
    """

    name: Name
    repository: str | None = None
    revision: str | None = None
    files: dict[InsidePath, Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]] = {}
    url: str | None = None
    mirrors: tuple[str, ...] = ()
    size: Annotated[int, Field(ge=0)] | None = None
    sha256: Sha256 | None = None
    destination: InsidePath = ""
    licence: str = ""
    unless: str | None = None
    why: Words | None = None


class ProbeRow(Row):
    """A proof in the finished environment: modules that import, or a packaged probe by name."""

    name: Name
    imports: tuple[Module, ...] = ()
    probe: Probe | None = None
    arguments: dict[str, str] = {}
    needs_gpu: bool = False
    profiles: tuple[str, ...] = ()


class Stage(Row):
    """One command of a run, started in the environment; idempotent, so that a rerun goes on.

    `command`, `directory` and `environment` may name `{run}` (the run's folder), `{data}`, `{source}`,
    `{weights}`, `{models}`, `{demo}` (of bringup's own demo programs); `{arguments}` (what the user wrote
    after `--`) is a whole word of the command. `modes`: "demo", "data", "arguments"; empty: all.
    `times`: a regular expression for what it prints of itself, shown below its time in the table: groups
    `name` and `ms`, `s` or (no time) `text`.
    `results`: patterns of pictures, meshes and scenes that it makes, for the report; beside places they name
    `{option:-m,--model_path|output/*}`: what the user gave an option of the workload, or its default.
    """

    name: Name
    title: Words
    command: tuple[str, ...]
    modes: tuple[str, ...] = ()
    device: Literal["any", "gpu", "cpu"] = "any"
    directory: str = "{run}"
    environment: dict[Variable, str] = {}
    optional: bool = False
    times: Expression | None = None
    results: tuple[str, ...] = ()


class Needs(Row):
    """What the host must have; gigabytes (10⁹ bytes)."""

    gpu: Literal["required", "optional", "none"] = "required"
    disk_gb: Annotated[float, Field(ge=0)] = 10
    memory_gb: Annotated[float, Field(ge=0)] = 4
    gpu_memory_gb: Annotated[float, Field(ge=0)] | None = None
    architecture: tuple[str, ...] = ("x86_64", "aarch64")
    systems: tuple[str, ...] = ("linux", "windows", "macos")


class Image(Row):
    """The workload's own container image and where things lie in it.

    Attributes:
        folders: name → folder: `code`, `models`.
        mounts: name → where the user's folder or file appears in the container.
        command: what its entry point is given; may name the mounts (`{input}`) and `{arguments}`.
        versions: distributions that it holds and the workload needs, or the recipe replaces or drops.
    """

    reference: str
    python: str
    site_packages: str
    python_version: str
    size_gb: float | None = None
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    folders: dict[str, str] = {}
    mounts: dict[str, str] = {}
    versions: dict[str, Version] = {}


class Failure(Row):
    """An error text that people meet with this workload; `finding`: the id that `bringup explain` has for it.

    A stage that ends with the text in its output is told `why`.
    """

    text: str
    finding: str
    why: Words


class Recipe(Row):
    """A workload as data. `limits`: what it does not repair, said with each plan and image."""

    schema_: Literal["bringup/recipe/1"] = Field(alias="schema")
    name: Name
    title: Words
    summary: Words
    default_profile: str = "default"
    profiles: dict[str, Words] = {}
    source: Source | None = None
    python: VersionRange
    torch: TorchNeeds
    requirements: tuple[RequirementRow, ...] = ()
    extensions: tuple[ExtensionRow, ...] = ()
    patches: tuple[PatchRow, ...] = ()
    checkpoints: tuple[CheckpointRow, ...] = ()
    weights: tuple[WeightsRow, ...] = ()
    probes: tuple[ProbeRow, ...] = ()
    stages: tuple[Stage, ...] = ()
    report: str | None = None
    needs: Needs = Needs()
    image: Image | None = None
    failures: tuple[Failure, ...] = ()
    limits: tuple[Words, ...] = ()
    versions: dict[str, dict[str, Version]] = {}
    measured: dict[str, str] = {}

    def with_layouts_of(self, profile: str) -> Recipe:
        """The recipe with every checkpoint in the layout that this profile's consumer expects."""
        rows = (
            row.model_copy(update={"layout": row.layouts.get(profile, row.layout)})
            for row in self.checkpoints
        )
        return self.model_copy(update={"checkpoints": tuple(rows)})

    @model_validator(mode="after")
    def _profiles_are_known(self) -> Recipe:
        known = {self.default_profile, *self.profiles}
        for place, names in (("torch", self.torch.profiles), ("versions", self.versions)):
            if unlisted := sorted(set(names) - known):
                raise ValueError(f"profile {unlisted[0]!r} is used by {place} but not listed under profiles")
        for table in (self.requirements, self.extensions, self.patches, self.probes):
            for row in table:
                unknown = set(row.profiles) - known
                if unknown:
                    raise ValueError(f"profile {sorted(unknown)[0]!r} is used but not listed under profiles")
        return self

    @model_validator(mode="after")
    def _names_are_used_once(self) -> Recipe:
        for table, rows in (
            ("patch", [(row.id, row.profiles) for row in self.patches]),
            ("extension", [(row.distribution, row.profiles) for row in self.extensions]),
            ("weights", [(row.name, ()) for row in self.weights]),
            ("stage", [(row.name, ()) for row in self.stages]),
        ):
            for number, (name, profiles) in enumerate(rows):
                for other, others in rows[:number]:
                    if name == other and _overlap(profiles, others):
                        raise ValueError(f"{table} {name!r} stands there twice")
                if table == "patch" and name in _STEPS:
                    raise ValueError(f"patch {name!r}: a step of every plan has this name")
        return self

    @model_validator(mode="after")
    def _nothing_contradicts(self) -> Recipe:
        for row in self.requirements:
            if _distribution(row.spec) in ("torch", *self.torch.companions):
                raise ValueError(f"requirement {row.spec!r}: its version stands under torch")
        dropped = [row for row in self.extensions if row.ways == ("drop",)]
        for probe in self.probes:
            for extension in dropped:
                shared = set(probe.imports) & set(extension.imports)
                if shared and _overlap(probe.profiles, extension.profiles):
                    text = f"extension {extension.distribution} is dropped, but probe {probe.name} imports"
                    raise ValueError(f"{text} {sorted(shared)[0]}")
        return self

    @model_validator(mode="after")
    def _weights_have_an_origin(self) -> Recipe:
        for row in self.weights:
            if (row.repository is None) == (row.url is None):
                raise ValueError(f"weights {row.name}: either repository (with files) or url")
            if row.repository is not None and not row.files:
                raise ValueError(f"weights {row.name}: which files of {row.repository}?")
        return self

    @model_validator(mode="after")
    def _patches_are_of_something(self) -> Recipe:
        names = {extension.distribution for extension in self.extensions}
        for row in self.patches:
            if row.of and row.of not in names:
                raise ValueError(f"patch {row.id}: there is no extension {row.of!r}")
            if not row.of and self.source is None:
                raise ValueError(f"patch {row.id}: there is no source to patch")
        return self

    @model_validator(mode="after")
    def _ways_have_what_they_need(self) -> Recipe:
        for extension in self.extensions:
            if "build" in extension.ways and extension.build is None:
                raise ValueError(f"extension {extension.distribution}: way 'build' needs a [build] table")
            if "portable" in extension.ways and extension.portable is None:
                raise ValueError(f"extension {extension.distribution}: way 'portable' needs the key portable")
            if extension.build and extension.build.folder is not None and self.source is None:
                raise ValueError(
                    f"extension {extension.distribution}: there is no source to take the folder of"
                )
        return self
