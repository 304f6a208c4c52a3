"""What a recipe may say. Parsed from TOML; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

SCHEMA = "bringup/recipe/1"


def _specifiers(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError(f"'{text}' is no version range such as '>=3.10,<3.14'") from error
    return text


def _requirement(text: str) -> str:
    try:
        Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"'{text}' is no requirement: {error}") from error
    return text


VersionRange = Annotated[str, AfterValidator(_specifiers)]
RequirementText = Annotated[str, AfterValidator(_requirement)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
CommitHash = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


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

    repository: str
    commit: CommitHash
    subfolder: str = ""
    licence: str
    licence_note: Words | None = None
    submodules: dict[str, CommitHash] = {}


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

    repository: str | None = None
    commit: CommitHash | None = None
    folder: str | None = None
    subfolder: str = ""
    licence: str
    backend: Literal["setuptools", "scikit-build-core", "cmake"]
    environment: dict[str, str] = {}
    memory_per_job_gb: float = 2.0
    minutes: float = 2.0
    submodules: dict[str, CommitHash] = {}

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
    imports: tuple[str, ...] = ()
    ways: tuple[Literal["wheel", "portable", "build", "drop"], ...]
    pin: str | None = None
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
    files: str
    fault: str
    absent: str | None = None
    kind: Literal["insert-include", "replace", "rewrite-torch-load"]
    value: str = ""
    when: str | None = None
    why: Words
    profiles: tuple[str, ...] = ()


CheckpointLayout = Literal["safetensors", "state-dict", "module"]


class CheckpointRow(Row):
    """Old pickled models to convert and rebuild.

    `keywords` may name `{attribute:rigid}` (read from the pickle) and `{folder}` (of the file's path).
    `layouts`: profile → layout, where a profile's consumer expects another one than `layout`.
    """

    files: str
    class_path: str
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
    files: dict[str, Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]] = {}
    url: str | None = None
    mirrors: tuple[str, ...] = ()
    size: int | None = None
    sha256: Sha256 | None = None
    destination: str = ""
    licence: str = ""
    unless: str | None = None
    why: Words | None = None


class ProbeRow(Row):
    """A proof in the finished environment: modules that import, or a packaged probe by name."""

    name: Name
    imports: tuple[str, ...] = ()
    probe: Name | None = None
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
    environment: dict[str, str] = {}
    optional: bool = False
    times: str | None = None
    results: tuple[str, ...] = ()


class Needs(Row):
    """What the host must have; gigabytes (10⁹ bytes)."""

    gpu: Literal["required", "optional", "none"] = "required"
    disk_gb: float = 10
    memory_gb: float = 4
    gpu_memory_gb: float | None = None
    architecture: tuple[str, ...] = ("x86_64", "aarch64")
    systems: tuple[str, ...] = ("linux", "windows", "macos")


class Image(Row):
    """The workload's own container image and where things lie in it.

    Attributes:
        folders: name → folder: `code`, `models`.
        mounts: name → where the user's folder or file appears in the container.
        command: what its entry point is given; may name the mounts (`{input}`) and `{arguments}`.
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


class Failure(Row):
    """An error text that people meet with this workload and the finding that it belongs to."""

    text: str
    finding: str
    why: Words


class Recipe(Row):
    """A workload as data."""

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
    versions: dict[str, dict[str, str]] = {}
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
        for name in self.torch.profiles:
            if name not in known:
                raise ValueError(f"profile {name!r} is used by torch but not listed under profiles")
        for table in (self.requirements, self.extensions, self.patches, self.probes):
            for row in table:
                unknown = set(row.profiles) - known
                if unknown:
                    raise ValueError(f"profile {sorted(unknown)[0]!r} is used but not listed under profiles")
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
        return self
