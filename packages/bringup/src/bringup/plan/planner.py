"""Recipe + facts + catalog → plan."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import Catalog
from bringup.errors import BringupError
from bringup.facts.environment import read_environment
from bringup.facts.gpus import usable_gpus
from bringup.facts.host import read_disk
from bringup.facts.interpreters import Interpreter, ask
from bringup.facts.machine import MachineFacts
from bringup.plan.companions import choose_companions, torch_companions, torch_of
from bringup.plan.extensions import ExtensionPlan, ExtensionQuestion, choose_extensions
from bringup.plan.model import SCHEMA, Choice, Estimate, LockedPackage, Plan, Reason, Rejected
from bringup.plan.own_packages import OwnPackage, find_own_package
from bringup.plan.resolve import Resolved, Resolver
from bringup.plan.sequence import Given, Parts, sequence
from bringup.plan.sizes import file_sizes
from bringup.plan.steps import Value
from bringup.plan.torch_choice import TorchChoice, TorchQuestion, choose_torch
from bringup.plan.torch_source import BUILD_REQUIREMENTS, plan_source_build, stand_in
from bringup.recipes.schema import ExtensionRow, Recipe, RequirementRow, TorchRange

_UNPACKED = 3.5  # Wheels of this kind unpack to about this many times their size.
_BYTES_PER_SECOND = 8e6  # A modest line; printed as «about», and only for planning an afternoon.


@dataclass(frozen=True)
class Wishes:
    """What the user asked for beyond the recipe.

    Attributes:
        gpus: chips named with `--gpu`; empty means those that are here.
        cpu: plan for the CPU although GPUs are here.
        find_links, offline: see `Resolver`.
        overlay: an environment (its folder or Python) whose torch is used as it is.
        given: folders that the user brings in place of downloads.
        prefer: the way that is tried first for every extension.
        torch_from_source: compile PyTorch itself although a build may be had.
    """

    gpus: tuple[ComputeCapability, ...] = ()
    cpu: bool = False
    profile: str | None = None
    python: str | None = None
    find_links: tuple[Path, ...] = field(default=())
    offline: bool = False
    overlay: Path | None = None
    given: Given = field(default_factory=Given)
    prefer: str | None = None
    torch_from_source: bool = False


class Resolvers:
    """pip for each interpreter of one planning, whose rounds share what they were told.

    `latest`: the one that was asked for last.
    `needs_torch`: whether anything in the last lock requires torch.
    """

    latest: Resolver
    needs_torch: bool

    def __init__(self, wishes: Wishes) -> None:
        self._wishes = wishes
        self._made: dict[str, Resolver] = {}

    @property
    def is_late(self) -> bool:
        """Whether this planning has taken as long as it may."""
        return any(resolver.is_late for resolver in self._made.values())

    def of(self, interpreter: Interpreter, overlay: Sequence[str] = ()) -> Resolver:
        """pip of this interpreter, ready."""
        if interpreter.path not in self._made:
            made = Resolver(interpreter, self._wishes.find_links, self._wishes.offline, overlay)
            made.prepare()
            self._made[interpreter.path] = made
        self.latest = self._made[interpreter.path]
        return self.latest


def torch_range(recipe: Recipe, profile: str) -> TorchRange:
    """Which torch this profile runs with."""
    return recipe.torch.profiles.get(profile, recipe.torch)


def fitting_interpreters(python: str, machine: MachineFacts, wishes: Wishes) -> list[Interpreter]:
    """Interpreters in the range `python` that can make environments, in order of preference.

    Raises:
        BringupError: `no-python`, `no-such-python`, `python-out-of-range` or `no-ensurepip`.
    """
    allowed = SpecifierSet(python)
    known = machine.interpreters if wishes.python is None else _named_interpreters(wishes.python, machine)
    fitting = [row for row in known if allowed.contains(row.version, prereleases=True)]
    able = [row for row in fitting if row.makes_environments]
    if able:
        return able
    if fitting:
        raise BringupError("no-ensurepip", python=fitting[0].path, version=fitting[0].version)
    found = _versions(machine)
    if wishes.python is not None:
        named = {"given": wishes.python, "version": known[0].version}
        raise BringupError("python-out-of-range", exit_code=2, range=python, found=found, **named)
    raise BringupError("no-python", range=python, found=found)


def _named_interpreters(given: str, machine: MachineFacts) -> Sequence[Interpreter]:
    """Those of this path or exact version; a path that no search comes by is asked.

    Raises:
        BringupError: `no-such-python`.
    """
    known = [row for row in machine.interpreters if given in (row.path, row.version)]
    answer = ask(given) if not known and Path(given).is_file() else None
    if answer is not None:
        return [answer]
    if not known:
        raise BringupError("no-such-python", exit_code=2, given=given, found=_versions(machine))
    return known


def _versions(machine: MachineFacts) -> str:
    return ", ".join(sorted({row.version for row in machine.interpreters}, key=Version)) or "–"


def _choose_interpreter_and_torch(
    recipe: Recipe,
    needs: TorchRange,
    machine: MachineFacts,
    wishes: Wishes,
    catalog: Catalog,
    resolvers: Resolvers,
    named: Sequence[str],
    extensions: Sequence[ExtensionRow],
) -> tuple[Resolver, TorchChoice, Choice]:
    """The first interpreter for which a torch build can be had; `named`: what is wanted beside torch."""
    gpus = wishes.gpus or tuple(gpu.capability for gpu in usable_gpus(machine.gpus))
    if wishes.cpu:
        gpus = ()
    if recipe.needs.gpu == "required" and not gpus:
        raise BringupError("gpu-required-not-cpu" if wishes.cpu else "gpu-required", recipe=recipe.name)
    host = machine.host
    question = TorchQuestion(
        gpus=tuple(sorted(set(gpus))),
        driver=None if wishes.gpus else machine.gpus.driver,
        platform=f"{host.system}-{host.architecture}",
        allowed=SpecifierSet(needs.range),
        on_windows=host.system == "windows" or host.wsl is not None,
        cuda=needs.cuda,
        companions=needs.companions,
        extensions=tuple(row for row in extensions if set(row.ways) == {"wheel"}),
    )
    rejected: list[Rejected] = []
    failure: BringupError | None = None
    for interpreter in fitting_interpreters(recipe.python, machine, wishes):
        resolver = resolvers.of(interpreter)
        try:
            if wishes.torch_from_source:
                torch = plan_source_build(question, machine, catalog, "torch-source-asked")
            else:
                beside = torch_companions(named, resolver, catalog)
                torch = choose_torch(replace(question, beside=beside), resolver, catalog)
        except BringupError as error:
            if error.id not in (
                "no-torch",
                "no-torch-for-gpu",
                "torch-index-unreachable",
                "chip-by-ptx-alone",
            ):
                raise
            failure = failure or error
            rejected.append(Rejected(what=interpreter.version, why=Reason(id="python-without-torch")))
            continue
        why = Reason(id="python-in-range", parameters={"range": recipe.python})
        python = Choice(subject="python", chosen=interpreter.version, why=why, rejected=tuple(rejected))
        return resolver, torch, python
    assert failure is not None
    if failure.id == "no-torch-for-gpu" and not wishes.offline:
        torch = plan_source_build(question, machine, catalog, "torch-source-no-wheel")
        interpreter = fitting_interpreters(recipe.python, machine, wishes)[0]
        why = Reason(id="python-in-range", parameters={"range": recipe.python})
        found = Choice(subject="python", chosen=interpreter.version, why=why, rejected=tuple(rejected))
        return resolvers.of(interpreter), torch, found
    raise failure


def _given_torch(
    needs: TorchRange, wishes: Wishes, resolvers: Resolvers
) -> tuple[Resolver, TorchChoice, Choice]:
    """The interpreter and torch of an overlay: NGC images, cluster modules, a machine without network.

    Raises:
        BringupError: `overlay-without-torch`, `overlay-other-torch`.
    """
    assert wishes.overlay is not None
    facts = read_environment(wishes.overlay, scan=False)
    interpreter = ask(facts.python.executable) if facts.python.executable else None
    if interpreter is None or facts.torch is None:
        raise BringupError("overlay-without-torch", path=wishes.overlay)
    version = Version(facts.torch.version)
    if not SpecifierSet(needs.range).contains(version.public, prereleases=True):
        raise BringupError("overlay-other-torch", path=facts.root, version=version, range=needs.range)
    why = Reason(id="torch-given", parameters={"path": facts.root})
    folders = (*facts.site_packages, *facts.paths)
    resolver = resolvers.of(interpreter, folders)
    choice = Choice(subject="torch", chosen=str(version), why=why)
    torch = TorchChoice(version, facts.torch.cuda, None, choice, folders)
    return resolver, torch, Choice(subject="python", chosen=interpreter.version, why=why)


def _lock(
    rows: Sequence[Resolved], torch: TorchChoice, extensions: ExtensionPlan
) -> tuple[tuple[LockedPackage, ...], dict[str, str]]:
    rows = [*rows, *extensions.wheels]
    indexes = {"pytorch": torch.index} if torch.index else {}
    for number, page in enumerate(dict.fromkeys(extensions.pages.values()), 1):
        indexes[f"links-{number}"] = page
    names = {address: name for name, address in indexes.items()}

    def index_of(row: Resolved) -> str | None:
        if row.name in extensions.pages:
            return names[extensions.pages[row.name]]
        return "pytorch" if torch.index and row.url.startswith("https://download.pytorch.org/") else None

    packages = tuple(
        LockedPackage(
            name=row.name,
            version=row.version,
            sha256=row.sha256,
            file=unquote(row.file),
            index=index_of(row),
            size=size,
        )
        for row, size in zip(rows, file_sizes([row.url for row in rows]), strict=True)
    )
    return packages, indexes


def _texts(recipe: Recipe, profile: str) -> list[str]:
    """What the index must give, beside our own packages."""
    return [row.loosened or row.spec for row in _rows(recipe, profile) if not row.own]


def _rows(recipe: Recipe, profile: str) -> list[RequirementRow]:
    rows = (row for row in recipe.requirements if not row.drop)
    return [row for row in rows if not row.profiles or profile in row.profiles]


def _own_packages(
    recipe: Recipe, profile: str, with_portable: str | None, folders: Sequence[Path]
) -> list[OwnPackage]:
    """Our own packages among what is required.

    `with_portable`: portable-kernels' extra with the bindings of torch's CUDA; None without shims.
    `folders`: of wheels that the user named.
    """
    names = [canonicalize_name(Requirement(row.spec).name) for row in _rows(recipe, profile) if row.own]
    own = [find_own_package(name, (), folders) for name in names]
    if with_portable is not None:
        own.append(find_own_package("portable-kernels", [with_portable], folders))
    return own


def _portable_extra(torch: TorchChoice) -> str:
    return f"cu{torch.cuda.partition('.')[0]}" if torch.cuda else ""


def _companions(needs: TorchRange, torch: TorchChoice, catalog: Catalog) -> list[str]:
    """torchvision and torchaudio of torch's own release and build."""
    public = torch.version.public
    row = next((build for build in catalog.torch_builds if build.version == public), None)
    label = f"+{torch.version.local}" if torch.version.local else ""
    listed: list[str] = []
    for name in needs.companions:
        version = getattr(row, name, None) if row else None
        if torch.overlay or version is None:
            listed.append(name)
        else:
            listed.append(f"{name}=={version}{label}")
    return listed


def _estimate(
    packages: Sequence[LockedPackage], extensions: ExtensionPlan, torch: TorchChoice, weights: int
) -> Estimate:
    download = sum(package.size or 0 for package in packages) + weights
    compiling = torch.build_seconds + sum(60 * step.minutes for step in extensions.builds)
    return Estimate(
        download=download,
        disk=int(download * (1 + _UNPACKED)) + (torch.build.disk if torch.build else 0),
        seconds=int(30 + download / _BYTES_PER_SECOND + compiling),
    )


def _profile(recipe: Recipe, wishes: Wishes) -> str:
    profile = wishes.profile or recipe.default_profile
    if profile != recipe.default_profile and profile not in recipe.profiles:
        known = ", ".join([recipe.default_profile, *recipe.profiles])
        raise BringupError("unknown-profile", exit_code=2, given=profile, known=known)
    return profile


def make_plan(
    recipe: Recipe,
    machine: MachineFacts,
    catalog: Catalog,
    wishes: Wishes | None = None,
    resolvers: Resolvers | None = None,
) -> Plan:
    """Plan a new environment for a recipe. Nothing is installed but the resolver's own pip.

    `resolvers`: of the planning that this is a round of.

    Raises:
        BringupError: no interpreter, no torch, the one thing that blocks, contradicting requirements,
            too little space, an index out of reach.
    """
    wishes = wishes or Wishes()
    resolvers = resolvers or Resolvers(wishes)
    profile = _profile(recipe, wishes)
    if wishes.given.source is not None and not wishes.given.source.is_dir():
        raise BringupError("no-source", exit_code=2, path=wishes.given.source)
    needs = torch_range(recipe, profile)
    gpus = wishes.gpus or tuple(gpu.capability for gpu in usable_gpus(machine.gpus))
    gpus = () if wishes.cpu else tuple(sorted(set(gpus)))
    named = _texts(recipe, profile)
    wanted = [row for row in recipe.extensions if not row.profiles or profile in row.profiles]
    if wishes.overlay:
        resolver, torch, python = _given_torch(needs, wishes, resolvers)
    else:
        resolver, torch, python = _choose_interpreter_and_torch(
            recipe, needs, machine, wishes, catalog, resolvers, named, wanted
        )
    question = ExtensionQuestion(torch, gpus, resolver, catalog, wishes.prefer)
    extensions = choose_extensions(wanted, question)
    extra = _portable_extra(torch) if extensions.shims else None
    own = _own_packages(recipe, profile, extra, wishes.find_links)
    texts, built_for_torch = choose_companions(named, torch.version, torch.cuda, resolver, catalog)
    texts += [text for package in own for text in package.requirements]
    # A given torch may carry a label that its metadata lack: any build of the release satisfies.
    pinned = f"torch=={torch.version.public}" if torch.overlay else f"torch==={torch.version}"
    companions = [] if torch.build else _companions(needs, torch, catalog)
    rows = _resolve([pinned, *companions, *texts], resolver, torch)
    resolvers.needs_torch = any(torch_of(row.requires, resolver.interpreter) is not None for row in rows)
    packages, indexes = _lock(rows, torch, extensions)
    estimate = _estimate(
        packages, extensions, torch, sum(row.size or 0 for row in wishes.given.weights_of(recipe))
    )
    _require_space(estimate, machine)
    parts = Parts(recipe, profile, resolver.interpreter, torch, packages, own, extensions, gpus)
    return Plan(
        schema=SCHEMA,
        recipe=recipe.name,
        environment=recipe.name if profile == recipe.default_profile else f"{recipe.name}-{profile}",
        profile=profile,
        platform=resolver.interpreter.platform,
        gpus=tuple(gpu.sm for gpu in gpus),
        indexes=indexes,
        estimate=estimate,
        choices=(python, torch.choice, *extensions.choices, *built_for_torch, *_extras_unknown(texts, rows)),
        packages=packages,
        steps=sequence(parts, wishes.given),
    )


def _extras_unknown(texts: Sequence[str], rows: Sequence[Resolved]) -> Iterator[Choice]:
    """Extras that a release does not have: an installer passes over them with a mere warning."""
    found = {row.name: row for row in rows}
    for requirement in map(Requirement, texts):
        row = found.get(canonicalize_name(requirement.name))
        if row is None:
            continue
        offered = {canonicalize_name(extra) for extra in row.extras}
        for extra in sorted(requirement.extras):
            if canonicalize_name(extra) not in offered:
                named: dict[str, Value] = {"extra": extra, "offered": ", ".join(sorted(offered)) or "–"}
                why = Reason(id="extra-unknown", parameters=named)
                yield Choice(subject=str(requirement), chosen=row.version, why=why)


def _resolve(texts: Sequence[str], resolver: Resolver, torch: TorchChoice) -> list[Resolved]:
    """The lock's rows; a torch that has still to be compiled is stood in for, and left out again."""
    if torch.build is None:
        return resolver.resolve(texts, index=torch.index)
    with tempfile.TemporaryDirectory(prefix="bringup-") as folder:
        stand_in(torch.version, Path(folder))
        rows = resolver.resolve([*texts, *BUILD_REQUIREMENTS], find_links=[Path(folder)])
    return [row for row in rows if row.name != "torch"]


def _require_space(estimate: Estimate, machine: MachineFacts) -> None:
    disk = read_disk(Path(machine.disk.path))
    if disk.free < estimate.disk:
        raise BringupError(
            "too-little-space",
            path=disk.path,
            free=round(disk.free / 1e9, 1),
            needed=round(estimate.disk / 1e9, 1),
        )
