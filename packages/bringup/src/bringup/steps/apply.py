"""Carrying a plan out: into a new environment, step by step, switched in when the proof holds."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bringup import state
from bringup.catalog import load as load_catalog
from bringup.errors import BringupError
from bringup.facts.host import read_disk
from bringup.facts.indexes import read_indexes
from bringup.facts.interpreters import ask
from bringup.plan.folders import content_of
from bringup.plan.model import Plan, write_plan
from bringup.plan.own_packages import find_own_package
from bringup.plan.resolve import explain_environment_failure, show_through
from bringup.plan.steps import (
    BuildExtension,
    BuildTorch,
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
from bringup.steps.environments import Slot, current, held, switch_in
from bringup.steps.extension_build import build_extension
from bringup.steps.installers import Installer, OnLine, choose_installer
from bringup.steps.journal import Journal
from bringup.steps.models import convert_models
from bringup.steps.observer import Observer
from bringup.steps.patches import gcc_version, patch_source
from bringup.steps.processes import run_logged
from bringup.steps.shims import install_shims
from bringup.steps.sources import Supplies, fetch_source
from bringup.steps.torch_build import build_torch, check_host
from bringup.steps.verify import Proof, verify, write_proof
from bringup.steps.weights import fetch_weights


@dataclass(frozen=True)
class InstallOptions:
    """How packages are installed; see `choose_installer`. `pack`: a folder that `bringup fetch` made."""

    installer: str | None = None
    find_links: tuple[Path, ...] = field(default=())
    offline: bool = False
    pack: Path | None = None

    @property
    def supplies(self) -> Supplies:
        """Where sources and weights may come from."""
        return Supplies(self.offline, self.pack)


@dataclass(frozen=True)
class Applied:
    """The result: where the environment is, what was proved, seconds by step (reused ones too)."""

    slot: Slot
    proof: Proof | None
    seconds: dict[str, float]
    reused: bool


def validate(plan: Plan, folders: Sequence[Path] = ()) -> None:
    """Compare the plan with this machine before anything is touched.

    Raises:
        BringupError: the interpreter is gone or another version, our own package changed since, or
            there is too little space.
    """
    first = plan.steps[0]
    assert isinstance(first, CreateEnvironment)
    interpreter = ask(first.interpreter)
    if interpreter is None or interpreter.version != first.python:
        found = interpreter.version if interpreter else "–"
        raise BringupError("plan-other-python", path=first.interpreter, wanted=first.python, found=found)
    if interpreter.platform != plan.platform:
        raise BringupError("plan-other-platform", wanted=plan.platform, found=interpreter.platform)
    for step in plan.steps:
        if isinstance(step, InstallOwn):
            _require_unchanged(step, folders)
        if isinstance(step, InstallShims):
            _require_shims(step)
        if isinstance(step, BuildTorch) and current_key(plan) != plan.key:
            check_host(step, Slot(plan.environment, plan.key).root)
        source = step.source if isinstance(step, BuildExtension) else step
        if isinstance(source, FetchSource) and source.local and current_key(plan) != plan.key:
            folder = Path(source.local)
            if not folder.is_dir() or (source.content and content_of(folder) != source.content):
                raise BringupError("source-changed", path=folder)
    if current_key(plan) != plan.key:
        free = read_disk(state.home()).free
        if free < plan.estimate.disk:
            needed = round(plan.estimate.disk / 1e9, 1)
            raise BringupError(
                "too-little-space", path=state.home(), free=round(free / 1e9, 1), needed=needed
            )


def _require_unchanged(step: InstallOwn, folders: Sequence[Path]) -> None:
    if find_own_package(step.package, folders=folders).content != step.content:
        raise BringupError("plan-outdated", package=step.package)


def _require_shims(step: InstallShims) -> None:
    known = {row.portable for row in load_catalog().extensions if row.portable}
    if unknown := sorted(set(step.shims) - known):
        text = f"there is no portable replacement {unknown[0]!r}"
        raise BringupError("plan-invalid", exit_code=2, path="", place=f"steps.{step.id}.shims", text=text)


def current_key(plan: Plan) -> str | None:
    """Key of the environment that is switched in under the plan's name."""
    slot = current(plan.environment)
    return slot.key if slot else None


class _Steps:
    """Does one step at a time in one slot."""

    def __init__(
        self, plan: Plan, slot: Slot, installer: Installer, observer: Observer, options: InstallOptions
    ) -> None:
        self._plan = plan
        self._slot = slot
        self._installer = installer
        self._observer = observer
        self._options = options
        self.proof: Proof | None = None

    def do(self, step: Step) -> None:
        log, tell = self._slot.log(step.id), self._tell(step)
        target = self._slot.target
        if isinstance(step, CreateEnvironment):
            self._create(step)
        elif isinstance(step, InstallPackages):
            self._install(step)
        elif isinstance(step, InstallOwn):
            own = find_own_package(step.package, folders=self._options.find_links)
            self._installer.install_path(target, own.path, log, tell)
        elif isinstance(step, FetchSource):
            self._fetch(step, log, tell)
        elif isinstance(step, PatchSource):
            self._patch(step)
        elif isinstance(step, InstallShims):
            install_shims(target, step.shims, log, tell)
        elif isinstance(step, BuildExtension):
            self._build(step)
        elif isinstance(step, BuildTorch):
            build_torch(step, target, self._slot.root, self._installer, self._options.supplies, log, tell)
        elif isinstance(step, FetchWeights):
            fetch_weights(step, self._options.supplies, tell)
        elif isinstance(step, ConvertCheckpoints):
            convert_models(step, target, self._slot.models, self._slot.source, tell)
        else:
            self._verify(step)

    def _fetch(self, step: FetchSource, log: Path, tell: OnLine) -> None:
        source = self._slot.source
        fetch_source(step, source, self._options.supplies, log, tell)
        if step.importable:
            folders = [folder for folder in (source, source / "src") if folder.is_dir()]
            show_through(self._slot.target.root, [str(folder) for folder in folders], "source")

    def _patch(self, step: PatchSource) -> None:
        """A patch of an extension's source is applied where that source is fetched, in `_build`."""
        if not step.of:
            versions = {"gcc": gcc_version(), "torch": self._locked("torch")}
            changed = patch_source(step, self._slot.source, versions)
            state.write_atomically(self._slot.log(step.id), "".join(f"{name}\n" for name in changed))

    def _locked(self, name: str) -> str | None:
        return next((row.version for row in self._plan.packages if row.name == name), None)

    def _build(self, step: BuildExtension) -> None:
        build_extension(
            step,
            self._slot.target,
            self._slot.root / "extensions",
            self._slot.source,
            self._installer,
            self._options.supplies,
            self._options.find_links,
            {"gcc": gcc_version(), "torch": self._locked("torch")},
            self._slot.log(step.id),
            self._tell(step),
        )

    def _tell(self, step: Step) -> OnLine:
        return lambda line: self._observer.line(step.id, line)

    def _create(self, step: CreateEnvironment) -> None:
        command = [step.interpreter, "-m", "venv", "--clear", str(self._slot.target.root)]
        outcome = run_logged(command, self._slot.log(step.id))
        if outcome.code:
            interpreter = ask(step.interpreter)
            assert interpreter is not None
            raise explain_environment_failure(outcome.tail, interpreter)
        show_through(self._slot.target.root, step.overlay)

    def _install(self, step: InstallPackages) -> None:
        wanted = [self._plan.package(name) for name in step.packages]
        for index in dict.fromkeys(package.index for package in wanted):
            group = [package for package in wanted if package.index == index]
            address = self._plan.indexes[index] if index else None
            log = self._slot.log(step.id if index is None else f"{step.id}-{index}")
            self._installer.install(self._slot.target, group, address, log, self._tell(step))

    def _verify(self, step: Verify) -> None:
        self.proof = verify(self._slot.target, step)
        write_proof(self.proof, self._slot.proof)
        if not self.proof.holds:
            failed = [
                f"{check.id} {check.subject}: {check.detail}" for check in self.proof.checks if not check.ok
            ]
            raise BringupError(
                "proof-failed", environment=self._slot.target.root, failed=" · ".join(failed[:3])
            )


def _do_all(plan: Plan, slot: Slot, steps: _Steps, observer: Observer) -> dict[str, float]:
    journal = Journal(slot.journal)
    seconds: dict[str, float] = {}
    everything_reused = True
    for step in plan.steps:
        key = plan.step_key(step)
        known = journal.seconds(step.id, key) if everything_reused else None
        if isinstance(step, FetchWeights) and journal.seconds(step.id, key) is not None:
            # Kept for all environments, and no part of this one: looked at each time, soon done.
            steps.do(step)
            known = journal.seconds(step.id, key)
        if known is not None:
            seconds[step.id] = known
            observer.finished(step.id, known, True)
            continue
        # Once a step is done anew, so are all after it: they stood on what it replaced.
        everything_reused = everything_reused and isinstance(step, FetchWeights)
        observer.started(step.id)
        began = time.monotonic()
        steps.do(step)
        seconds[step.id] = time.monotonic() - began
        journal.add(step.id, key, seconds[step.id])
        observer.finished(step.id, seconds[step.id], False)
    return seconds


def apply_plan(plan: Plan, observer: Observer, options: InstallOptions | None = None) -> Applied:
    """Make the plan's environment, going on where a run before was broken off.

    Raises:
        BringupError: what `validate` raises; another apply is at work; a step failed (its log is kept,
            the environment that was switched in before still is).
    """
    options = options or InstallOptions()
    validate(plan, options.find_links)
    slot = Slot(plan.environment, plan.key)
    try:
        with held(plan.environment):
            reused = current_key(plan) == plan.key
            installer = choose_installer(
                read_indexes(), options.installer, options.find_links, options.offline
            )
            steps = _Steps(plan, slot, installer, observer, options)
            write_plan(plan, slot.plan)
            seconds = _do_all(plan, slot, steps, observer)
            switch_in(slot)
            return Applied(slot, steps.proof, seconds, reused)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise BringupError("no-space", subject=plan.environment, path=state.home()) from error
        raise


def undo(name: str, keys: Sequence[str] = ()) -> list[Path]:
    """Delete environments of a name that are not switched in. Returns what was deleted.

    Raises:
        BringupError: `apply-locked`.
    """
    deleted = []
    with held(name):
        active = current(name)
        for folder in sorted((state.environments() / name).iterdir()):
            if folder.is_dir() and (active is None or folder.name != active.key):
                if keys and folder.name not in keys:
                    continue
                shutil.rmtree(folder)
                deleted.append(folder)
    return deleted
