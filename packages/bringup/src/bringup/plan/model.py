"""The plan file: readable, editable, the same for the same inputs, and checked again when applied.

A plan is also the lock: exact versions with their hashes. Reasons are identifiers with parameters;
their words are made in `report`.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version as ParsedVersion
from pydantic import Field, ValidationError, model_validator

from bringup import state
from bringup.errors import BringupError
from bringup.plan.steps import (
    BuildExtension,
    Bytes,
    Chip,
    CreateEnvironment,
    Distribution,
    FetchSource,
    InstallPackages,
    PatchSource,
    Row,
    Step,
    StepId,
    Value,
    Verify,
)
from bringup.recipes.fields import Address, Sha256, Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA: Literal["bringup/plan/1"] = "bringup/plan/1"


class Reason(Row):
    """Why something was chosen or rejected: a key of the message catalogue and its parameters."""

    id: str
    parameters: dict[str, Value] = Field(default_factory=dict)


class Rejected(Row):
    """What was not taken, and why."""

    what: str
    why: Reason


class Choice(Row):
    """One decision of the planner."""

    subject: str
    chosen: str
    why: Reason
    rejected: tuple[Rejected, ...] = ()


class LockedPackage(Row):
    """One distribution, exactly. `index`: a key of `Plan.indexes`; None means the user's own index."""

    name: Distribution
    version: Version
    sha256: Sha256 | None = None
    file: Annotated[str, Field(pattern=r"^[^/\\\s]*$")] = ""
    index: str | None = None
    size: Bytes | None = None

    @model_validator(mode="after")
    def _file_is_of_this_release(self) -> LockedPackage:
        if self.file:
            name, version = _release_of(self.file) or (None, None)
            version = version or ParsedVersion(self.version)
            if name and (name, version) != (canonicalize_name(self.name), ParsedVersion(self.version)):
                text = f"{self.name} {self.version} is locked with the file of {name} {version}"
                raise ValueError(
                    f"{text}, {self.file}; for another release take out its file, sha256 and size"
                )
        return self


def _release_of(file: str) -> tuple[str, ParsedVersion | None] | None:
    """(name, version) of a wheel's or source package's file; None for what its name does not say.

    pip takes wheels whose names are not quite as the specification wants them.
    """
    try:
        if file.endswith(".whl"):
            name, version, _, _ = parse_wheel_filename(file)
            return name, version
        return parse_sdist_filename(file)
    except InvalidWheelFilename:
        return canonicalize_name(file.partition("-")[0]), None
    except InvalidSdistFilename:
        return None


def _fits(wheel: str, python: str, platform: str) -> bool:
    """Whether a wheel's name allows this Python ("3.11.7") and platform ("linux-x86_64")."""
    minor, machine = ParsedVersion(python).minor, platform.rpartition("-")[2]
    try:
        tags = parse_wheel_filename(wheel)[3]
    except InvalidWheelFilename:
        return True
    for tag in tags:
        exact = tag.interpreter == f"cp3{minor}"
        since = re.fullmatch(r"cp3(\d+)", tag.interpreter) if tag.abi == "abi3" else None
        for_python = exact or tag.interpreter.startswith("py") or (since and int(since[1]) <= minor)
        if for_python and (tag.platform == "any" or tag.platform.endswith((machine, "universal2"))):
            return True
    return False


class Estimate(Row):
    """What applying costs, as far as it can be known beforehand. Bytes and seconds."""

    download: Bytes = 0
    disk: Bytes = 0
    seconds: Annotated[int, Field(ge=0)] = 0


class Plan(Row):
    """Everything that `bringup apply` does, in order."""

    schema_: Literal["bringup/plan/1"] = Field(alias="schema")
    recipe: str
    environment: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    profile: str = "default"
    platform: str
    gpus: tuple[Chip, ...] = ()
    indexes: dict[StepId, Address] = Field(default_factory=dict)
    estimate: Estimate = Estimate()
    choices: tuple[Choice, ...] = ()
    packages: tuple[LockedPackage, ...] = ()
    steps: tuple[Step, ...]

    @model_validator(mode="after")
    def _steps_are_in_order(self) -> Plan:
        names = [step.id for step in self.steps]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two steps are called {name!r}")
        if not self.steps or not isinstance(self.steps[0], CreateEnvironment):
            raise ValueError("the first step must be of kind create-environment")
        if not isinstance(self.steps[-1], Verify):
            raise ValueError("the last step must be of kind verify: nothing is switched in without a proof")
        for step in self.steps[1:-1]:
            if isinstance(step, CreateEnvironment | Verify):
                raise ValueError(f"step {step.id!r}: only one step may be of kind {step.kind}")
        has_source = False
        for step in self.steps:
            has_source = has_source or isinstance(step, FetchSource)
            patches = isinstance(step, PatchSource) and not step.of
            builds = isinstance(step, BuildExtension) and step.source is None
            if (patches or builds) and not has_source:
                raise ValueError(f"step {step.id!r} works on a source that no step before it fetches")
        return self

    @model_validator(mode="after")
    def _packages_are_locked_once(self) -> Plan:
        names = [package.name for package in self.packages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"package {name!r} is locked twice")
        for step in self.steps:
            if isinstance(step, InstallPackages) and (missing := set(step.packages) - set(names)):
                raise ValueError(f"step {step.id!r} installs {sorted(missing)[0]!r}, which is not locked")
        for package in self.packages:
            if package.index is not None and package.index not in self.indexes:
                raise ValueError(f"package {package.name!r} names the unknown index {package.index!r}")
        return self

    @model_validator(mode="after")
    def _parts_agree(self) -> Plan:
        first, last = self.steps[0], self.steps[-1]
        assert isinstance(first, CreateEnvironment)
        assert isinstance(last, Verify)
        installed = {
            name for step in self.steps if isinstance(step, InstallPackages) for name in step.packages
        }
        locked = {canonicalize_name(package.name): package.version for package in self.packages}
        for package in self.packages:
            if package.name not in installed:
                raise ValueError(f"package {package.name!r} is locked, and no step installs it")
            if package.file.endswith(".whl") and not _fits(package.file, first.python, self.platform):
                text = f"{package.file} is no wheel for Python {first.python} on {self.platform}"
                raise ValueError(f"package {package.name!r}: {text}")
        for name, version in last.versions.items():
            found = locked.get(canonicalize_name(name), version)
            if ParsedVersion(found) != ParsedVersion(version):
                raise ValueError(f"step {last.id!r} asks for {name} {version}, and {found} is locked")
        if set(last.gpus) != set(self.gpus):
            there, asked = ", ".join(self.gpus) or "the CPU", ", ".join(last.gpus) or "the CPU"
            raise ValueError(f"the plan is for {there}, and step {last.id!r} proves it for {asked}")
        return self

    def package(self, name: str) -> LockedPackage:
        """The locked package of this name."""
        return next(package for package in self.packages if package.name == name)

    @property
    def key(self) -> str:
        """Hash of what the environment will be: two plans with one key make the same environment.

        Weights are kept beside all environments, and count for none.
        """
        document = self.model_dump(mode="json", include={"platform", "packages", "steps", "indexes"})
        document["steps"] = [row for row in document["steps"] if row["kind"] != "fetch-weights"]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]

    def step_key(self, step: Step) -> str:
        """Hash of one step's inputs: what the journal compares to know that it is done."""
        document: dict[str, Any] = {"step": step.model_dump(mode="json")}
        if isinstance(step, InstallPackages):
            rows = (self.package(name) for name in step.packages)
            document["packages"] = [row.model_dump(mode="json") for row in rows]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        """The file's text."""
        document = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return tomli_w.dumps(document)


def write_plan(plan: Plan, path: Path) -> None:
    """Write the file atomically."""
    state.write_atomically(path, plan.to_toml())


def _place(location: Sequence[str | int], document: dict[str, Any]) -> str:
    """Where a fault is, in the file's own names: "steps.torch.packages" for the step with the id torch."""
    table, *rest = location or ("plan",)
    if table in ("steps", "packages") and rest and isinstance(rest[0], int):
        row = document[table][rest[0]]
        name = row.get("id") or row.get("name") if isinstance(row, dict) else None
        # Behind a step's number pydantic names its kind.
        fields = rest[2:] if table == "steps" else rest[1:]
        rest = [name if isinstance(name, str) and name else rest[0], *fields]
    return ".".join(map(str, (table, *rest)))


def read_plan(path: Path) -> Plan:
    """Read and check a plan.

    Raises:
        BringupError: `plan-unreadable`, `plan-syntax` or `plan-invalid`, naming the place.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise BringupError("plan-unreadable", exit_code=2, path=path, text=error) from error
    except tomllib.TOMLDecodeError as error:
        raise BringupError("plan-syntax", exit_code=2, path=path, text=error) from error
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = _place(first["loc"], document)
        text = first["msg"].removeprefix("Value error, ")
        raise BringupError("plan-invalid", exit_code=2, path=path, place=place, text=text) from error
