"""Which torch build: a CUDA build that has code for every GPU and whose driver suffices, else the CPU build.

The catalog proposes, the index decides what can be had, and `verify` reads the installed binaries back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from bringup.binaries.architectures import Architecture, ComputeCapability
from bringup.binaries.compatibility import machine_code_runs
from bringup.catalog import Catalog
from bringup.catalog.schema import TorchBuild
from bringup.errors import BringupError
from bringup.facts.gpus import DriverFacts
from bringup.plan.companions import may_stand_beside, newest_for
from bringup.plan.extension_wheels import OUT_OF_REACH, find_wheels
from bringup.plan.model import Choice, Reason, Rejected
from bringup.plan.resolve import Resolver
from bringup.plan.steps import BuildTorch, Value
from bringup.recipes.schema import ExtensionRow

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class TorchQuestion:
    """What the choice depends on.

    Attributes:
        gpus: compute capabilities to serve; empty means the CPU.
        driver: of this machine; None when planning for another machine's GPU.
        platform: for example "linux-x86_64".
        allowed: the recipe's range of torch versions.
        on_windows: whether Windows' driver minimums apply (Windows itself and WSL2).
        companions: torchvision or torchaudio, where they are wanted beside it.
        beside: distributions whose wheels were built for one torch each (`torch_companions`).
        extensions: those that come as wheels from a page for each torch, and in no other way.
    """

    gpus: tuple[ComputeCapability, ...]
    driver: DriverFacts | None
    platform: str
    allowed: SpecifierSet
    on_windows: bool
    cuda: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    beside: tuple[Requirement, ...] = ()
    extensions: tuple[ExtensionRow, ...] = ()


@dataclass(frozen=True)
class TorchChoice:
    """An exact torch.

    Attributes:
        index: its own wheel index, None where the user's index has it.
        overlay: folders of a given environment whose torch it is.
        build: the step that compiles it, where no index has it; about `build_seconds`.
    """

    version: Version
    cuda: str | None
    index: str | None
    choice: Choice
    overlay: tuple[str, ...] = ()
    build: BuildTorch | None = None
    build_seconds: int = 0


def _newest(versions: Sequence[Version], allowed: SpecifierSet, local: str | None) -> Version | None:
    fitting = (v for v in versions if v.local == local and allowed.contains(v.public, prereleases=False))
    return max(fitting, default=None)


def _missing_companion(
    torch: Version, question: TorchQuestion, resolver: Resolver, catalog: Catalog, index: str | None = None
) -> str | None:
    """The first companion of a labelled torch that its index (None: the user's) does not offer."""
    row = next((build for build in catalog.torch_builds if build.version == torch.public), None)
    for name in question.companions:
        release = getattr(row, name, None)
        if release and Version(f"{release}+{torch.local}") not in resolver.versions(name, only_index=index):
            return name
    return None


def _choose_cpu(question: TorchQuestion, resolver: Resolver, catalog: Catalog) -> TorchChoice:
    """The CPU build: by its label on the user's index or PyTorch's, else a default that is one."""
    listed = resolver.versions("torch")
    rejected: list[Rejected] = []

    def chosen(version: Version, index: str | None, id: str, **named: Value) -> TorchChoice:
        why = Reason(id=id, parameters=named)
        choice = Choice(subject="torch", chosen=str(version), why=why, rejected=tuple(rejected))
        return TorchChoice(version, None, index, choice)

    labelled = _newest(listed, question.allowed, "cpu")
    plain = _newest(listed, question.allowed, None)
    missing = _missing_companion(labelled, question, resolver, catalog) if labelled else None
    if missing:
        why = Reason(id="torch-without-companion", parameters={"name": missing})
        rejected.append(Rejected(what=str(labelled), why=why))
    elif labelled:
        if plain and plain > labelled:
            rejected.append(Rejected(what=str(plain), why=Reason(id="torch-is-cuda-build")))
        return chosen(labelled, None, "torch-cpu-no-gpu")
    cuda_by_default = {build.version for build in catalog.torch_builds if build.index is None and build.cuda}
    if plain and not question.platform.startswith("linux-x86_64") and plain.public not in cuda_by_default:
        return chosen(plain, None, "torch-cpu-no-gpu")
    try:
        there = _newest(resolver.versions("torch", only_index=CPU_INDEX), question.allowed, "cpu")
        if there and not _missing_companion(there, question, resolver, catalog, CPU_INDEX):
            return chosen(there, CPU_INDEX, "torch-cpu-no-gpu")
    except BringupError:
        pass  # out of reach here
    if plain and missing:
        return chosen(plain, None, "torch-cuda-for-companion", name=missing)
    if plain:
        return chosen(plain, None, "torch-cuda-on-cpu")
    if labelled:
        return chosen(labelled, None, "torch-cpu-no-gpu")
    raise BringupError("no-torch", range=question.allowed, python=resolver.interpreter.version)


def _why_not(build: TorchBuild, question: TorchQuestion, catalog: Catalog) -> Reason | None:
    """The first reason against a build, None if there is none."""
    if question.platform not in build.platforms:
        return Reason(id="torch-other-platform", parameters={"platform": question.platform})
    for gpu in question.gpus:
        if not catalog.torch_runs_on(build, gpu, question.platform):
            return Reason(id="torch-no-kernel-image", parameters={"gpu": gpu.sm})
    assert build.cuda is not None
    if question.driver:
        needed = catalog.minimum_driver(build.cuda, windows=question.on_windows)
        if needed and Version(question.driver.version) < Version(needed):
            parameters: dict[str, Value] = {
                "cuda": build.cuda,
                "needed": needed,
                "driver": question.driver.version,
            }
            return Reason(id="torch-driver-too-old", parameters=parameters)
    return None


def _in_reach(
    build: TorchBuild, own: Sequence[Version], resolver: Resolver
) -> tuple[Version, str | None] | Reason:
    """The version under which an index offers this build to this interpreter, and that index."""
    absent = Reason(id="torch-not-on-index")
    wanted = Version(f"{build.version}+{build.local}")
    if wanted in own:
        return wanted, None
    if build.index is None:
        plain = Version(build.version)
        return (plain, None) if plain in own else absent
    try:
        offered = resolver.versions("torch", only_index=build.index)
    except BringupError as error:
        if error.id == "index-too-slow":
            raise
        return Reason(id="torch-index-unreachable", parameters={"index": build.index})
    return (wanted, build.index) if wanted in offered else absent


def _lacking_beside(
    torch: Version, cuda: str | None, question: TorchQuestion, resolver: Resolver, catalog: Catalog
) -> str | None:
    """The first distribution or extension of which nothing was built for this torch."""
    for row in question.beside:
        if newest_for(row, torch, cuda, resolver, catalog)[0] is None:
            return row.name
    for extension in question.extensions:
        found = find_wheels(extension, torch, cuda, resolver, catalog)
        # A page out of reach says nothing of this torch: those of other releases are so as well.
        if isinstance(found, Reason) and found.id != OUT_OF_REACH:
            return extension.distribution
    return None


def _choose_cuda(question: TorchQuestion, resolver: Resolver, catalog: Catalog) -> TorchChoice:
    own = resolver.versions("torch")
    rejected: list[Rejected] = []
    blocked: list[Reason] = []
    builds = [
        build
        for build in catalog.torch_builds
        if build.cuda
        and question.allowed.contains(build.version)
        and (not question.cuda or build.cuda in question.cuda)
    ]
    # The newest release first; within it the user's own index before PyTorch's, the newer CUDA first.
    builds.sort(key=lambda b: (Version(b.version), b.index is None, Version(b.cuda or "0")), reverse=True)
    for build in builds:
        label = f"{build.version}+{build.local}"
        against = _why_not(build, question, catalog)
        if against:
            blocked.append(against)
            rejected.append(Rejected(what=label, why=against))
            continue
        reach = _in_reach(build, own, resolver)
        if isinstance(reach, Reason):
            rejected.append(Rejected(what=label, why=reach))
            continue
        version, index = reach
        if lacking := _lacking_beside(version, build.cuda, question, resolver, catalog):
            why = Reason(id="torch-without-companion", parameters={"name": lacking})
            rejected.append(Rejected(what=label, why=why))
            continue
        served = ", ".join(gpu.sm for gpu in question.gpus)
        by_ptx = any(not _has_machine_code(build, gpu, question.platform) for gpu in question.gpus)
        named: dict[str, Value] = {"gpus": served, "cuda": build.cuda or ""}
        why = Reason(id="torch-serves-by-ptx" if by_ptx else "torch-serves-gpus", parameters=named)
        choice = Choice(subject="torch", chosen=label, why=why, rejected=tuple(rejected))
        return TorchChoice(version, build.cuda, index, choice)
    raise _nothing_works(question, blocked, rejected, catalog)


def _has_machine_code(build: TorchBuild, gpu: ComputeCapability, platform: str) -> bool:
    code = build.machine_code_on(platform)
    return any(machine_code_runs(Architecture.parse(name), gpu) for name in code)


def _nothing_works(
    question: TorchQuestion, blocked: Sequence[Reason], rejected: Sequence[Rejected], catalog: Catalog
) -> BringupError:
    """The one thing that blocks: the range; the driver, if it alone does; else the chip; else the index."""
    gpus = ", ".join(gpu.sm for gpu in question.gpus)
    releases = [Version(build.version) for build in catalog.torch_builds if build.cuda]
    if releases and not any(map(question.allowed.contains, releases)):
        oldest, newest = min(releases), max(releases)
        return BringupError("no-such-torch", range=question.allowed, oldest=oldest, newest=newest)
    drivers = [reason for reason in blocked if reason.id == "torch-driver-too-old"]
    if drivers:
        easiest = min(drivers, key=lambda reason: Version(str(reason.parameters["needed"])))
        named = {key: str(value) for key, value in easiest.parameters.items()}
        error = BringupError("driver-blocks", gpus=gpus)
        error.parameters.update(named)
        return error
    if len(blocked) == len(rejected):
        elsewhere = _platforms_of_chips(question, catalog)
        if elsewhere:
            listed = ", ".join(elsewhere)
            return BringupError(
                "chip-of-other-platform", gpus=gpus, platforms=listed, platform=question.platform
            )
        return BringupError("chip-blocks", gpus=gpus, range=question.allowed)
    unreachable = {str(r.why.parameters["index"]) for r in rejected if r.why.id == "torch-index-unreachable"}
    if unreachable:
        listed = ", ".join(sorted(unreachable))
        unknown = [gpu for gpu in question.gpus if not _is_compiled_for(gpu, catalog)]
        if unknown:
            serving = ", ".join(r.what for r in rejected if r.why.id == "torch-index-unreachable")
            chips = ", ".join(gpu.sm for gpu in unknown)
            return BringupError("chip-by-ptx-alone", gpus=chips, builds=serving, indexes=listed)
        return BringupError("torch-index-unreachable", gpus=gpus, indexes=listed, range=question.allowed)
    return BringupError("no-torch-for-gpu", gpus=gpus, range=question.allowed)


def _platforms_of_chips(question: TorchQuestion, catalog: Catalog) -> list[str]:
    """Where else some build of the range serves all chips."""
    builds = [b for b in catalog.torch_builds if b.cuda and question.allowed.contains(b.version)]
    serving = {
        platform
        for build in builds
        for platform in build.platforms
        if all(catalog.torch_runs_on(build, gpu, platform) for gpu in question.gpus)
    }
    return sorted(serving - {question.platform})


def _is_compiled_for(gpu: ComputeCapability, catalog: Catalog) -> bool:
    return any(catalog.compiles_for(toolkit, gpu) for toolkit in catalog.toolkits)


def choose_torch(question: TorchQuestion, resolver: Resolver, catalog: Catalog) -> TorchChoice:
    """Choose; every build that was looked at before stands in `choice.rejected` with its reason.

    Raises:
        BringupError: `no-torch`, `no-such-torch`, `driver-blocks`, `chip-blocks`, `no-torch-for-gpu`,
            `torch-index-unreachable`, `chip-by-ptx-alone`, or the user's index is out of reach.
    """
    if not question.gpus:
        return _choose_cpu(_serving_all_beside(question, resolver, catalog), resolver, catalog)
    try:
        return _choose_cuda(question, resolver, catalog)
    except BringupError:
        if not (question.extensions or question.beside):
            raise
    # What was compiled for no torch that serves the chips gives way, the last named extension first.
    if question.extensions:
        return choose_torch(replace(question, extensions=question.extensions[:-1]), resolver, catalog)
    return _choose_cuda(replace(question, beside=()), resolver, catalog)


def _serving_all_beside(question: TorchQuestion, resolver: Resolver, catalog: Catalog) -> TorchQuestion:
    """The question for the newest release beside which all can be had, if there is one.

    What the catalog has of a companion is its CUDA code, for which no CPU needs another torch.
    """
    known = {row.name for row in catalog.companions}
    beside = tuple(row for row in question.beside if canonicalize_name(row.name) not in known)
    if not beside:
        return question
    releases = {version.public for version in resolver.versions("torch")}
    for release in sorted(question.allowed.filter(releases), key=Version, reverse=True):
        if all(may_stand_beside(row, Version(release), resolver, catalog) for row in beside):
            return replace(question, allowed=question.allowed & SpecifierSet(f"=={release}"))
    return question
