"""The order of a plan's steps: what can fail cheaply first, long downloads early, the proof last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bringup.binaries.architectures import ComputeCapability
from bringup.facts.interpreters import Interpreter
from bringup.plan.extensions import ExtensionPlan
from bringup.plan.folders import content_of
from bringup.plan.model import LockedPackage
from bringup.plan.own_packages import OwnPackage
from bringup.plan.steps import (
    ConvertCheckpoints,
    CreateEnvironment,
    FetchSource,
    FetchWeights,
    InstallOwn,
    InstallPackages,
    InstallShims,
    PatchSource,
    Step,
    Verify,
)
from bringup.plan.torch_choice import TorchChoice
from bringup.plan.wanted import NO_COMMIT
from bringup.recipes.schema import PatchRow, Recipe, WeightsRow


@dataclass(frozen=True)
class Given:
    """What the user brings: folders of the workload's source, its weights, its old pickled models.

    `arguments`: what the workload will be started with; some need fewer weights.
    """

    source: Path | None = None
    weights: Path | None = None
    models: Path | None = None
    arguments: tuple[str, ...] = ()

    def weights_of(self, recipe: Recipe) -> tuple[WeightsRow, ...]:
        """The rows that these arguments need."""
        return tuple(row for row in recipe.weights if row.unless not in self.arguments)


@dataclass(frozen=True)
class Parts:
    """All that the planner has chosen."""

    recipe: Recipe
    profile: str
    interpreter: Interpreter
    torch: TorchChoice
    packages: tuple[LockedPackage, ...]
    own: Sequence[OwnPackage]
    extensions: ExtensionPlan
    gpus: tuple[ComputeCapability, ...]

    @property
    def patches(self) -> list[PatchRow]:
        """The recipe's patches of this profile."""
        return [row for row in self.recipe.patches if not row.profiles or self.profile in row.profiles]


def sequence(parts: Parts, given: Given) -> tuple[Step, ...]:
    """All steps, in order."""
    interpreter = parts.interpreter
    first = CreateEnvironment(
        id="environment",
        python=interpreter.version,
        interpreter=interpreter.path,
        overlay=parts.torch.overlay,
    )
    return (
        first,
        *_source(parts, given),
        *(weights_step(row, given) for row in given.weights_of(parts.recipe)),
        *_packages(parts),
        *_extensions(parts),
        *_checkpoints(parts, given),
        _proof(parts),
    )


def _patch(row: PatchRow) -> PatchSource:
    return PatchSource(
        id=row.id,
        of=row.of,
        files=row.files,
        fault=row.fault,
        absent=row.absent,
        action=row.kind,
        value=row.value,
        when=row.when,
    )


def _source(parts: Parts, given: Given) -> Iterator[Step]:
    source = parts.recipe.source
    if source is None:
        return
    local = given.source.absolute() if given.source else None
    yield FetchSource(
        id="source",
        repository=source.repository,
        commit=source.commit,
        submodules={} if local else dict(source.submodules),
        licence=source.licence,
        local=str(local) if local else None,
        content=content_of(local) if local else None,
        # A project's scripts import its packages as if it were installed; recipes install what they need.
        importable=True if source.commit == NO_COMMIT else None,
    )
    yield from (_patch(row) for row in parts.patches if not row.of)


def _packages(parts: Parts) -> Iterator[Step]:
    # torch and what comes with it first: the long download is done, and kept, before anything small can fail.
    names = [package.name for package in parts.packages if package.name not in parts.extensions.pages]
    heavy = [name for name in names if name == "torch" or name.startswith(("nvidia-", "triton"))]
    light = [name for name in names if name not in heavy]
    if heavy:
        yield InstallPackages(id="torch", packages=tuple(heavy))
    if light:
        yield InstallPackages(id="packages", packages=tuple(light))
    if parts.torch.build:
        yield parts.torch.build
    for package in parts.own:
        yield InstallOwn(id=package.name, package=package.name, content=package.content)


def _extensions(parts: Parts) -> Iterator[Step]:
    chosen = parts.extensions
    if chosen.pages:
        yield InstallPackages(id="extensions", packages=tuple(chosen.pages))
    if chosen.shims:
        yield InstallShims(id="shims", shims=tuple(chosen.shims))
    for step in chosen.builds:
        patches = tuple(_patch(row) for row in parts.patches if row.of == step.distribution)
        yield step.model_copy(update={"patches": patches}) if patches else step


def weights_step(row: WeightsRow, given: Given) -> FetchWeights:
    """The step that brings one row of weights."""
    return FetchWeights(
        id=f"weights-{row.name}",
        repository=row.repository,
        revision=row.revision,
        files=row.files,
        url=row.url,
        mirrors=row.mirrors,
        size=row.size,
        sha256=row.sha256,
        destination=row.destination,
        local=str(given.weights.absolute()) if given.weights else None,
    )


def _checkpoints(parts: Parts, given: Given) -> Iterator[Step]:
    """Only where the user has the models: they are seldom something that can be fetched."""
    for number, row in enumerate(
        parts.recipe.with_layouts_of(parts.profile).checkpoints if given.models else (), 1
    ):
        assert given.models is not None
        yield ConvertCheckpoints(
            id=f"models-{number}",
            folder=str(given.models.absolute()),
            files=row.files,
            class_path=row.class_path,
            keywords=row.keywords,
            rename=row.rename,
            layout=row.layout,
            destination=row.destination,
            python_path=row.python_path,
        )


def _proof(parts: Parts) -> Verify:
    on_gpu = bool(parts.gpus)
    rows = [row for row in parts.recipe.probes if not row.profiles or parts.profile in row.profiles]
    rows = [row for row in rows if on_gpu or not row.needs_gpu]
    built = [name for step in parts.extensions.builds for name in step.imports]
    return Verify(
        id="verify",
        imports=tuple(dict.fromkeys([*(name for row in rows for name in row.imports), *built])),
        probes=tuple(dict.fromkeys(row.probe for row in rows if row.probe)),
        arguments={row.probe: dict(row.arguments) for row in rows if row.probe and row.arguments},
        versions=dict(parts.recipe.versions.get(parts.profile, {})),
        gpus=tuple(gpu.sm for gpu in parts.gpus),
    )
