"""Recipe + facts + catalog → plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from bringup.plan.model import (
    SCHEMA,
    Choice,
    CreateEnvironment,
    Estimate,
    InstallOwn,
    InstallPackages,
    LockedPackage,
    Plan,
    Reason,
    Rejected,
    Verify,
)
from bringup.plan.own_packages import OwnPackage, find_own_package
from bringup.plan.resolve import Resolved, Resolver
from bringup.plan.sizes import file_sizes
from bringup.plan.torch_choice import TorchChoice, TorchQuestion, choose_torch
from bringup.recipes.schema import Recipe

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
    """

    gpus: tuple[ComputeCapability, ...] = ()
    cpu: bool = False
    profile: str | None = None
    python: str | None = None
    find_links: tuple[Path, ...] = field(default=())
    offline: bool = False
    overlay: Path | None = None


def _fitting_interpreters(recipe: Recipe, machine: MachineFacts, wishes: Wishes) -> list[Interpreter]:
    """Interpreters in the recipe's range that can make environments, in order of preference.

    Raises:
        BringupError: `no-python` or `no-ensurepip`.
    """
    allowed = SpecifierSet(recipe.python)
    known = [
        python for python in machine.interpreters if wishes.python in (None, python.path, python.version)
    ]
    fitting = [python for python in known if allowed.contains(python.version, prereleases=True)]
    able = [python for python in fitting if python.makes_environments]
    if able:
        return able
    if fitting:
        raise BringupError("no-ensurepip", python=fitting[0].path, version=fitting[0].version)
    found = ", ".join(sorted({python.version for python in known}, key=Version)) or "–"
    raise BringupError("no-python", range=recipe.python, found=found)


def _choose_interpreter_and_torch(
    recipe: Recipe, machine: MachineFacts, wishes: Wishes, catalog: Catalog
) -> tuple[Resolver, TorchChoice, Choice]:
    """The first interpreter for which a torch build can be had."""
    gpus = wishes.gpus or tuple(gpu.capability for gpu in usable_gpus(machine.gpus))
    if wishes.cpu:
        gpus = ()
    if recipe.needs.gpu == "required" and not gpus:
        raise BringupError("gpu-required", recipe=recipe.name)
    host = machine.host
    question = TorchQuestion(
        gpus=tuple(sorted(set(gpus))),
        driver=None if wishes.gpus else machine.gpus.driver,
        platform=f"{host.system}-{host.architecture}",
        allowed=SpecifierSet(recipe.torch.range),
        on_windows=host.system == "windows" or host.wsl is not None,
        cuda=recipe.torch.cuda,
    )
    rejected: list[Rejected] = []
    failure: BringupError | None = None
    for interpreter in _fitting_interpreters(recipe, machine, wishes):
        resolver = Resolver(interpreter, wishes.find_links, wishes.offline)
        resolver.prepare()
        try:
            torch = choose_torch(question, resolver, catalog)
        except BringupError as error:
            if error.id not in ("no-torch", "no-torch-for-gpu"):
                raise
            failure = failure or error
            rejected.append(Rejected(what=interpreter.version, why=Reason(id="python-without-torch")))
            continue
        why = Reason(id="python-in-range", parameters={"range": recipe.python})
        python = Choice(subject="python", chosen=interpreter.version, why=why, rejected=tuple(rejected))
        return resolver, torch, python
    assert failure is not None
    raise failure


def _given_torch(recipe: Recipe, wishes: Wishes) -> tuple[Resolver, TorchChoice, Choice]:
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
    if not SpecifierSet(recipe.torch.range).contains(version.public, prereleases=True):
        raise BringupError("overlay-other-torch", path=facts.root, version=version, range=recipe.torch.range)
    why = Reason(id="torch-given", parameters={"path": facts.root})
    folders = (*facts.site_packages, *facts.paths)
    resolver = Resolver(interpreter, wishes.find_links, wishes.offline, folders)
    resolver.prepare()
    choice = Choice(subject="torch", chosen=str(version), why=why)
    torch = TorchChoice(version, facts.torch.cuda, None, choice, folders)
    return resolver, torch, Choice(subject="python", chosen=interpreter.version, why=why)


def _lock(rows: Sequence[Resolved], torch: TorchChoice) -> tuple[tuple[LockedPackage, ...], dict[str, str]]:
    sizes = file_sizes([row.url for row in rows])
    indexes = {"pytorch": torch.index} if torch.index else {}
    packages = tuple(
        LockedPackage(
            name=row.name,
            version=row.version,
            sha256=row.sha256,
            file=unquote(row.file),
            index="pytorch" if torch.index and row.url.startswith("https://download.pytorch.org/") else None,
            size=size,
        )
        for row, size in zip(rows, sizes, strict=True)
    )
    return packages, indexes


def _requirements(recipe: Recipe, profile: str) -> tuple[list[str], list[OwnPackage]]:
    """What the index must give, and our own packages among it."""
    texts: list[str] = []
    own: list[OwnPackage] = []
    for row in recipe.requirements:
        if row.drop or (row.profiles and profile not in row.profiles):
            continue
        if row.own:
            package = find_own_package(canonicalize_name(Requirement(row.spec).name))
            own.append(package)
            texts += package.requirements
        else:
            texts.append(row.loosened or row.spec)
    return texts, own


def _estimate(packages: Sequence[LockedPackage]) -> Estimate:
    download = sum(package.size or 0 for package in packages)
    return Estimate(
        download=download,
        disk=int(download * (1 + _UNPACKED)),
        seconds=int(30 + download / _BYTES_PER_SECOND),
    )


def _beyond_packages(recipe: Recipe, profile: str) -> list[str]:
    """Tables of the recipe that no step carries out yet: half a plan would be worse than none."""
    rows = {
        "extensions": [row for row in recipe.extensions if not row.profiles or profile in row.profiles],
        "patches": [row for row in recipe.patches if not row.profiles or profile in row.profiles],
        "checkpoints": recipe.checkpoints,
        "weights": recipe.weights,
        "source": [recipe.source] if recipe.source else [],
    }
    return [name for name, listed in rows.items() if listed]


def make_plan(recipe: Recipe, machine: MachineFacts, catalog: Catalog, wishes: Wishes | None = None) -> Plan:
    """Plan a new environment for a recipe. Nothing is installed but the resolver's own pip.

    Raises:
        BringupError: no interpreter, no torch, the one thing that blocks, contradicting requirements,
            too little space, an index out of reach.
    """
    wishes = wishes or Wishes()
    profile = wishes.profile or recipe.default_profile
    if profile != recipe.default_profile and profile not in recipe.profiles:
        known = ", ".join([recipe.default_profile, *recipe.profiles])
        raise BringupError("unknown-profile", exit_code=2, given=profile, known=known)
    if parts := _beyond_packages(recipe, profile):
        raise BringupError("recipe-needs-more", exit_code=2, recipe=recipe.name, parts=", ".join(parts))
    if wishes.overlay:
        resolver, torch, python = _given_torch(recipe, wishes)
    else:
        resolver, torch, python = _choose_interpreter_and_torch(recipe, machine, wishes, catalog)
    texts, own = _requirements(recipe, profile)
    # A given torch may carry a label that its metadata lack: any build of the release satisfies.
    pinned = f"torch=={torch.version.public}" if torch.overlay else f"torch==={torch.version}"
    rows = resolver.resolve([pinned, *texts], index=torch.index)
    packages, indexes = _lock(rows, torch)
    estimate = _estimate(packages)
    _require_space(estimate, machine)
    gpus = wishes.gpus or tuple(gpu.capability for gpu in usable_gpus(machine.gpus))
    return Plan(
        schema=SCHEMA,
        recipe=recipe.name,
        environment=recipe.name if profile == recipe.default_profile else f"{recipe.name}-{profile}",
        profile=profile,
        platform=resolver.interpreter.platform,
        gpus=() if wishes.cpu else tuple(gpu.sm for gpu in sorted(set(gpus))),
        indexes=indexes,
        estimate=estimate,
        choices=(python, torch.choice),
        packages=packages,
        steps=_steps(
            recipe, profile, resolver.interpreter, torch.overlay, packages, own, () if wishes.cpu else gpus
        ),
    )


def _require_space(estimate: Estimate, machine: MachineFacts) -> None:
    disk = read_disk(Path(machine.disk.path))
    if disk.free < estimate.disk:
        raise BringupError(
            "too-little-space",
            path=disk.path,
            free=round(disk.free / 1e9, 1),
            needed=round(estimate.disk / 1e9, 1),
        )


def _steps(
    recipe: Recipe,
    profile: str,
    interpreter: Interpreter,
    overlay: tuple[str, ...],
    packages: Sequence[LockedPackage],
    own: Sequence[OwnPackage],
    gpus: Sequence[ComputeCapability],
) -> tuple[CreateEnvironment | InstallPackages | InstallOwn | Verify, ...]:
    # torch and what comes with it first: the long download is done, and kept, before anything small can fail.
    heavy = [p.name for p in packages if p.name == "torch" or p.name.startswith(("nvidia-", "triton"))]
    light = [p.name for p in packages if p.name not in heavy]
    probes = [row for row in recipe.probes if not row.profiles or profile in row.profiles]
    imports = [name for row in probes if gpus or not row.needs_gpu for name in row.imports]
    named = [row.probe for row in probes if row.probe and (gpus or not row.needs_gpu)]
    return (
        CreateEnvironment(
            id="environment", python=interpreter.version, interpreter=interpreter.path, overlay=overlay
        ),
        *(InstallPackages(id="torch", packages=tuple(heavy)) for _ in heavy[:1]),
        *(InstallPackages(id="packages", packages=tuple(light)) for _ in light[:1]),
        *(InstallOwn(id=package.name, package=package.name, content=package.content) for package in own),
        Verify(
            id="verify",
            imports=tuple(dict.fromkeys(imports)),
            probes=tuple(dict.fromkeys(named)),
            gpus=tuple(gpu.sm for gpu in sorted(set(gpus))),
        ),
    )
