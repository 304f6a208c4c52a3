"""Filling a pack, part by part: one that cannot be had is named, and the others are brought all the same."""

from __future__ import annotations

import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from bringup.catalog import load as load_catalog
from bringup.errors import BringupError
from bringup.plan.model import Plan, write_plan
from bringup.plan.steps import BuildExtension, FetchSource, FetchWeights
from bringup.steps.observer import Observer
from bringup.steps.packing.manifest import (
    Lacking,
    PackManifest,
    list_files,
    read_manifest,
    write_manifest,
)
from bringup.steps.packing.sources import pack_source
from bringup.steps.packing.weights import pack_weights
from bringup.steps.packing.wheels import WheelPacker
from bringup.steps.sources import OnLine, archive_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Part = Callable[[OnLine], object]


@dataclass(frozen=True)
class Packed:
    """The result. `seconds`: by part; `lacking`: (part, error) of what could not be brought."""

    folder: Path
    manifest: PackManifest
    seconds: dict[str, float]
    lacking: tuple[tuple[str, BringupError], ...] = field(default=())


def _sources(plan: Plan) -> list[tuple[str, FetchSource]]:
    rows = [(step.id, step) for step in plan.steps if isinstance(step, FetchSource)]
    built = [step.source for step in plan.steps if isinstance(step, BuildExtension)]
    return [*rows, *((step.id, step) for step in built if step)]


def torch_cuda(plan: Plan) -> str | None:
    """CUDA of the locked torch ("13.0"); None for a build without, or when torch is not in the lock."""
    row = next((package for package in plan.packages if package.name == "torch"), None)
    if row is None:
        return None
    version = Version(row.version)
    label = version.local or ""
    if label.startswith("cu") and label[2:].isdigit():
        return f"{label[2:-1]}.{label[-1]}"
    builds = load_catalog().torch_builds
    fitting = (build for build in builds if build.version == version.public and build.index is None)
    return None if label else next((build.cuda for build in fitting), None)


def _build_requires(plan: Plan, sources: Path) -> list[str]:
    """`[build-system].requires` of the packed extensions, without torch."""
    wanted: list[str] = []
    for step in plan.steps:
        if not isinstance(step, BuildExtension) or step.source is None:
            continue
        archive = sources / archive_name(step.source.repository, step.source.commit)
        name = f"{archive.name.removesuffix('.tar.gz')}/{step.subfolder}".rstrip("/") + "/pyproject.toml"
        try:
            with tarfile.open(archive) as tar:
                member = tar.extractfile(name)
                document = tomllib.loads(member.read().decode()) if member else {}
        except (OSError, KeyError, tarfile.TarError, ValueError):
            continue
        wanted += document.get("build-system", {}).get("requires", ())
    return [row for row in wanted if not _is_torch(row)]


def _is_torch(row: str) -> bool:
    try:
        return canonicalize_name(Requirement(row).name) in ("torch", "torchvision", "torchaudio", "triton")
    except InvalidRequirement:
        return True


def _parts(
    plan: Plan, folder: Path, find_links: tuple[Path, ...], log: Path, local: Path | None
) -> list[tuple[str, Part]]:
    parts: list[tuple[str, Part]] = []

    def source(step: FetchSource) -> Part:
        given = local if step in plan.steps else None  # the extensions have sources of their own
        return lambda tell: pack_source(step, folder / "sources", log, tell, given)

    def weights(step: FetchWeights) -> Part:
        return lambda tell: pack_weights(step, folder / "weights", tell)

    def wheels(tell: OnLine) -> None:
        WheelPacker(plan, folder / "wheels", find_links, log).lock(tell)

    def own(tell: OnLine) -> None:
        WheelPacker(plan, folder / "wheels", find_links, log).own(tell)

    def tools(tell: OnLine) -> None:
        requires = _build_requires(plan, folder / "sources")
        packer = WheelPacker(plan, folder / "wheels", find_links, log)
        packer.build_tools(requires, torch_cuda(plan), tell)

    parts += [(name, source(step)) for name, step in _sources(plan)]
    parts += [(step.id, weights(step)) for step in plan.steps if isinstance(step, FetchWeights)]
    parts += [("wheels", wheels), ("own-wheels", own)]
    if any(isinstance(step, BuildExtension) for step in plan.steps):
        parts.append(("build-tools", tools))
    return parts


def fill_pack(
    plan: Plan,
    folder: Path,
    observer: Observer,
    say_error: Callable[[BringupError], str],
    find_links: tuple[Path, ...] = (),
    source: Path | None = None,
) -> Packed:
    """Bring everything that the plan fetches; a run that was broken off goes on with what is missing.

    Args:
        say_error: an error's words, for the manifest.
        source: a local copy of the workload's source.

    Raises:
        BringupError: `no-space`; what else fails stands in `lacking`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = read_manifest(folder)
    write_plan(plan, folder / "plan.toml")
    log = folder / "fetch.log"
    lacking: list[tuple[str, BringupError]] = []
    seconds: dict[str, float] = {}
    for name, part in _parts(plan, folder, find_links, log, source):
        observer.started(name)
        began = time.monotonic()
        error = _try(part, name, observer)
        seconds[name] = time.monotonic() - began
        if error:
            lacking.append((name, error))
        else:
            observer.finished(name, seconds[name], False)
    first = plan.steps[0]
    manifest = PackManifest(
        recipe=plan.recipe,
        profile=plan.profile,
        platform=plan.platform,
        python=getattr(first, "python", ""),
        gpus=plan.gpus,
        files=list_files(folder, before),
        lacking=tuple(Lacking(part=name, error=error.id, text=say_error(error)) for name, error in lacking),
    )
    write_manifest(folder, manifest)
    return Packed(folder, manifest, seconds, tuple(lacking))


def _try(part: Part, name: str, observer: Observer) -> BringupError | None:
    try:
        part(lambda line: observer.line(name, line))
    except BringupError as error:
        if error.id == "no-space":
            raise
        return error
    return None
