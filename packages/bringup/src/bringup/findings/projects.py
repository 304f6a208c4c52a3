"""Rules about a project's own files: pins, torch.load calls, extensions nobody imports, pickled models."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from bringup.catalog import Catalog
from bringup.catalog.schema import TorchBuild
from bringup.checkpoints import open_checkpoint, unimportable_classes
from bringup.errors import BringupError
from bringup.facts.environment import EnvironmentFacts
from bringup.facts.project import ProjectFacts
from bringup.facts.project_requirements import Pin
from bringup.findings.model import Evidence, Examined, Finding, NamedGpu
from bringup.findings.repairs import cpu_torch, pip, torch_build_fix

_MOST_CHECKPOINTS = 8
# Kind of old source → (release of torch without it, what is gone, what stands in its place).
_GONE_FROM_TORCH = {
    "dispatch-type": ("2.6", "AT_DISPATCH_…(x.type(), …)", "x.scalar_type()"),
    "at-check": ("1.5", "AT_CHECK", "TORCH_CHECK"),
    "thc-header": ("1.11", "#include <THC/…>", "ATen/cuda, c10/cuda"),
}
# What sed does with them, line by line.
_MENDED = {
    "dispatch-type": r"s/(AT_DISPATCH_\w+ *\([^,]*)\.type\(\)/\1.scalar_type()/",
    "at-check": r"s/\bAT_CHECK\b/TORCH_CHECK/",
}
_COMPILE_ERRORS = {
    "dispatch-type": 'no suitable conversion from "const at::DeprecatedTypeProperties" to "c10::ScalarType"',
    "at-check": 'identifier "AT_CHECK" is undefined',
    "thc-header": "fatal error: THC/THC.h: No such file or directory",
}
_WEIGHTS_ONLY_DEFAULT = Version("2.6")  # PyTorch 2.6 release notes, «backwards incompatible changes».


def torch_load_calls(examined: Examined) -> Iterator[Finding]:
    """Calls of torch.load that mean something else since torch 2.6."""
    project = examined.project
    if project is None:
        return
    for call in project.torch_loads:
        evidence = (Evidence(call.file, f"line {call.line}", call.text),)
        parameters = {"place": f"{call.file}:{call.line}"}
        if call.weights_only == "missing":
            error = "_pickle.UnpicklingError: Weights only load failed."
            fix = f'bringup rewrite "{project.root}"'
            yield Finding("torch-load-call", "warning", parameters["place"], evidence, error, fix, parameters)
        elif call.weights_only == "false":
            files = " ".join(
                f'"{Path(project.root) / file}"' for file in project.checkpoints[:_MOST_CHECKPOINTS]
            )
            fix = (
                f"bringup convert {files} -o converted"
                if files
                else f'bringup rewrite "{project.root}" --diff'
            )
            yield Finding(
                "torch-load-runs-pickles", "info", parameters["place"], evidence, "", fix, parameters
            )


def allows(specifier: SpecifierSet, build: TorchBuild) -> bool:
    """Whether a pin takes this build: «==2.7.0» takes every one of the release, «==2.7.0+cu118» that one."""
    return specifier.contains(f"{build.version}+{build.local}", prereleases=True)


def as_written(specifier: SpecifierSet) -> list[Version]:
    """The releases that a pin names as the only one or the newest, without labels."""
    named = (row.version.rstrip(".*") for row in specifier if row.operator in ("==", "===", "<=", "<", "~="))
    return [Version(Version(text).public) for text in named]


def nearest_build(builds: Iterable[TorchBuild], wanted: Version) -> TorchBuild:
    """Of the wanted release, else of the next newer one, else of the next older: its default build first."""
    by_release: dict[Version, list[TorchBuild]] = {}
    for build in builds:
        by_release.setdefault(Version(build.version), []).append(build)
    newer = [release for release in by_release if release >= wanted]
    of_release = by_release[min(newer) if newer else max(by_release)]
    return max(of_release, key=lambda build: (build.index is None, Version(build.cuda or "0")))


def serving_builds(examined: Examined, gpu: NamedGpu) -> list[TorchBuild]:
    """The builds of torch that have code for a GPU."""
    catalog = examined.catalog
    return [build for build in catalog.torch_builds if catalog.torch_runs_on(build, gpu.capability)]


def impossible_pin(examined: Examined) -> Iterator[Finding]:
    """A pin of torch that no build for the GPU fulfils, or a GPU for which there is no build at all."""
    project = examined.project
    if project is None:
        return
    for pin in project.pins:
        if canonicalize_name(pin.requirement.name) != "torch":
            continue
        for gpu in examined.gpus:
            serving = serving_builds(examined, gpu)
            if serving:
                yield from _pin_beside_the_builds(examined, pin, gpu, serving)
            else:
                yield from _chip_without_torch(examined, pin, gpu)


def is_served(catalog: Catalog, specifier: SpecifierSet, serving: Sequence[TorchBuild]) -> bool:
    """Whether a pin of torch allows one of the builds that serve a GPU; of unknown ones it is believed."""
    allowed = [build for build in catalog.torch_builds if allows(specifier, build)]
    if allowed:
        return any(build in serving for build in allowed)
    # Of a release that the catalog does not know nothing is claimed, unless even newer ones do not serve.
    oldest, first = (min(Version(row.version) for row in rows) for rows in (catalog.torch_builds, serving))
    return not any(version < first and oldest < first for version in as_written(specifier))


def nearest_to_pin(catalog: Catalog, specifier: SpecifierSet, serving: Sequence[TorchBuild]) -> TorchBuild:
    """The build nearest to what a pin names that serves a GPU."""
    allowed = (Version(row.version) for row in catalog.torch_builds if allows(specifier, row))
    return nearest_build(serving, max(allowed, default=None) or max(as_written(specifier)))


def _pin_beside_the_builds(
    examined: Examined, pin: Pin, gpu: NamedGpu, serving: list[TorchBuild]
) -> Iterator[Finding]:
    specifier = pin.requirement.specifier
    if is_served(examined.catalog, specifier, serving):
        return
    nearest = nearest_to_pin(examined.catalog, specifier, serving)
    name, sm = f"{nearest.version}+{nearest.local}", gpu.capability.sm
    evidence = (
        Evidence(pin.file, f"line {pin.line}", str(pin.requirement)),
        Evidence("catalog", sm, f"nearest torch with code for it: {name}"),
    )
    error = f"{gpu.name} with CUDA capability {sm} is not compatible with the current PyTorch"
    fix = torch_build_fix(examined, nearest, gpu)
    parameters = {"pin": str(pin.requirement), "gpu": gpu.name, "nearest": name}
    yield Finding("impossible-pin", "error", str(pin.requirement), evidence, error, fix, parameters)


def _chip_without_torch(examined: Examined, pin: Pin, gpu: NamedGpu) -> Iterator[Finding]:
    every = [build for build in examined.catalog.torch_builds if build.cuda]
    if not any(allows(pin.requirement.specifier, build) for build in every):
        return  # A build for the CPU, or a release that the catalog does not know.
    oldest = min(every, key=lambda build: Version(build.version)).version
    sm = gpu.capability.sm
    evidence = (
        Evidence(pin.file, f"line {pin.line}", str(pin.requirement)),
        Evidence("catalog", sm, f"torch builds with code for it: 0 of {len(every)}"),
    )
    error = f"{gpu.name} with CUDA capability {sm} is not compatible with the current PyTorch"
    parameters = {"pin": str(pin.requirement), "gpu": gpu.name, "sm": sm, "oldest": oldest}
    yield Finding("chip-without-torch", "error", gpu.name, evidence, error, cpu_torch(examined), parameters)


def old_cxx_sources(examined: Examined) -> Iterator[Finding]:
    """Sources of extensions that none of the torch releases which serve a GPU compiles."""
    project = examined.project
    if project is None or not project.compiling:
        return
    for kind, (gone, old, new) in _GONE_FROM_TORCH.items():
        rows = [row for row in project.old_cxx if row.kind == kind]
        for gpu in examined.gpus if rows else ():
            releases = [Version(build.version) for build in serving_builds(examined, gpu)]
            if not releases or min(releases) < Version(gone):
                continue
            first, count = rows[0], sum(row.count for row in rows)
            place = f"{first.file}:{first.line}"
            evidence = (Evidence(first.file, f"line {first.line}", first.text),)
            parameters = {
                "place": place,
                "old": old,
                "new": new,
                "gone": gone,
                "gpu": gpu.name,
                "count": str(count),
            }
            error = _COMPILE_ERRORS[kind]
            yield Finding(
                "source-for-old-torch",
                "warning",
                place,
                evidence,
                error,
                _cxx_fix(project, kind, gpu),
                parameters,
            )


def _cxx_fix(project: ProjectFacts, kind: str, gpu: NamedGpu) -> str:
    """The command that mends the sources; where a header is gone, a plan, which may do without the build."""
    if kind not in _MENDED:
        return f'bringup plan --project "{project.root}" --gpu {gpu.capability.sm} -o plan.toml'
    files = [row.file for row in project.old_cxx if row.kind == kind]
    return f"sed -i -E '{_MENDED[kind]}' " + " ".join(f'"{Path(project.root) / file}"' for file in files)


def unused_extension(examined: Examined) -> Iterator[Finding]:
    """An extension that is installed or required and that nothing in the project imports: drop it."""
    project = examined.project
    if project is None:
        return
    listed = {
        canonicalize_name(pin.requirement.name): Evidence(pin.file, f"line {pin.line}", str(pin.requirement))
        for pin in project.pins
    }
    if examined.environment:
        for row in examined.environment.distributions:
            listed.setdefault(
                canonicalize_name(row.name), Evidence(row.location, "Version", row.version or "")
            )
    for name, evidence in sorted(listed.items()):
        extension = examined.catalog.extension(name)
        if extension and not any(module in project.imports for module in extension.imports):
            proof = Evidence(project.root, "imports of " + ", ".join(extension.imports), "0")
            fix = f"{pip(examined)} uninstall -y {name}"
            yield Finding("unused-extension", "info", name, (evidence, proof), "", fix, {"name": name})


def _importable(environment: EnvironmentFacts, root: Path) -> set[str]:
    """Top-level modules that the environment or the project itself offers."""
    modules = set(sys.stdlib_module_names)
    for row in environment.distributions:
        modules.update(row.import_names)
    modules.update(path.stem for path in root.glob("*.py"))
    modules.update(path.name for path in root.iterdir() if (path / "__init__.py").exists())
    return modules


def unimportable_checkpoint(examined: Examined) -> Iterator[Finding]:
    """A pickled model whose classes the environment cannot import."""
    project, environment = examined.project, examined.environment
    if project is None or environment is None:
        return
    root = Path(project.root)
    importable = _importable(environment, root)
    for file in project.checkpoints:
        try:
            with open_checkpoint(root / file) as checkpoint:
                missing = unimportable_classes(checkpoint, importable)
        except BringupError:
            continue  # Not a checkpoint after all: many kinds of file bear these suffixes.
        if missing:
            first = str(sorted(missing)[0])
            evidence = (Evidence(file, "pickle global", first),)
            module = first.split(".")[0]
            error = f"ModuleNotFoundError: No module named '{module}'"
            fix = f'bringup convert "{root / file}" -o converted'
            parameters = {"file": file, "name": first, "count": str(len(missing))}
            yield Finding("unimportable-checkpoint", "warning", file, evidence, error, fix, parameters)


def build_resources(examined: Examined) -> Iterator[Finding]:
    """The project compiles CUDA code: is there memory for one job, and disk."""
    project = examined.project
    if project is None or not project.extension_builds:
        return
    host = examined.machine.host
    job = 4_000_000_000  # One nvcc job of a torch extension; torchmcubes peaked at 8 GB with two.
    build = Evidence(project.extension_builds[0], "compiles", "CUDA")
    # WSL2's allotment has a rule of its own.
    if host.memory_total < 2 * job and host.wsl is None:
        seen = Evidence("this machine", "memory", f"{host.memory_total / 1e9:.1f} GB")
        fix = f'bringup build "{(Path(project.root) / project.extension_builds[0]).parent}" --jobs 1'
        error = "c++: fatal error: Killed signal terminated program cc1plus"
        parameters = {"memory": f"{host.memory_total / 1e9:.1f}", "needed": f"{2 * job / 1e9:.0f}"}
        yield Finding("little-memory-for-build", "warning", "memory", (build, seen), error, fix, parameters)
    if examined.machine.disk.free < 5_000_000_000:
        free = f"{examined.machine.disk.free / 1e9:.1f}"
        seen = Evidence(examined.machine.disk.path, "free", f"{free} GB")
        error = "No space left on device"
        yield Finding(
            "little-disk-for-build", "warning", "disk", (build, seen), error, "bringup clean", {"free": free}
        )
