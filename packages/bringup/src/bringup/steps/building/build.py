"""`bringup build`: a source tree → a product that is proved, or one clear reason why not."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from bringup import state
from bringup.errors import BringupError
from bringup.facts.environment import EnvironmentFacts
from bringup.facts.gpus import DriverFacts
from bringup.facts.host import read_disk, read_host
from bringup.facts.toolchains import has_python_headers, link_time_optimisation_works
from bringup.steps.building.architectures import Wanted
from bringup.steps.building.cache import BuildCache, Kept, cache_key, hash_tree, sweep
from bringup.steps.building.failures import cause_of, first_errors
from bringup.steps.building.isolation import Isolation, install_dynamic_requirements, isolate
from bringup.steps.building.jobs import JobLimits, choose_jobs, fewer_jobs, measured_peak, remember_peak
from bringup.steps.building.products import find_product
from bringup.steps.building.project import BuildProject, read_build
from bringup.steps.building.proof import BuildProof, prove
from bringup.steps.building.runner import (
    Ran,
    Settings,
    Workshop,
    copy_source,
    forget_objects,
    lay_library_links,
    package_folders,
    run_attempt,
    turn_off_lto,
    variables,
)
from bringup.steps.building.sources import opened_source
from bringup.steps.building.toolkit_choice import UNREACHABLE, ToolkitChoice, ToolkitWish, choose_toolkit
from bringup.steps.observer import Observer
from bringup.steps.toolkit.pip import Source
from bringup.steps.toolkit.wheels import install_libraries

_LEAST_DISK = 1 << 30
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class BuildRequest:
    """What is the same for all sources of one command.

    Attributes:
        jobs: the user's wish, None to let cores and memory decide.
        where: see `ToolkitWish`. fresh: build although the cache has it.
        output: folder that the products are put into.
        variables: of the process environment, over those that the build sets by itself.
    """

    environment: EnvironmentFacts
    wanted: Wanted
    driver: DriverFacts | None
    jobs: int | None
    where: str | None
    source: Source
    fresh: bool
    output: Path
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """One try. `outcome`: "built", "memory", "lto", "architecture"; bytes of the largest compiler."""

    jobs: int
    seconds: float
    peak: int
    together: int
    outcome: str


@dataclass(frozen=True)
class BuildResult:
    """A product and all that is known of how it came to be."""

    source: str
    project: BuildProject
    product: Path
    sha256: str | None
    cached: bool
    seconds: float
    choice: ToolkitChoice
    limits: JobLimits
    attempts: tuple[Attempt, ...]
    proof: BuildProof
    log: Path


def _check_environment(project: BuildProject, request: BuildRequest) -> None:
    """What no attempt could mend."""
    environment = request.environment
    torch = environment.torch
    if project.uses_torch and torch is None:
        raise BringupError("build-needs-torch", name=project.name, path=environment.root)
    if project.uses_torch and project.cuda_sources and torch is not None and torch.cuda is None:
        raise BringupError(
            "build-torch-without-cuda", name=project.name, path=environment.root, torch=torch.version
        )
    if environment.python.executable is None:
        raise BringupError("no-environment", exit_code=2, path=environment.root)
    if project.kind != "cmake" and not has_python_headers(Path(environment.python.executable)):
        raise BringupError("no-python-headers", version=environment.python.version, path=environment.root)
    free = read_disk(state.cache()).free
    if free < _LEAST_DISK:
        free_gb, needed = round(free / 1e9, 1), round(_LEAST_DISK / 1e9, 1)
        raise BringupError("too-little-space", path=state.cache(), free=free_gb, needed=needed)


def build(path: Path, request: BuildRequest, observer: Observer) -> BuildResult:
    """Build one source; what was built before with the same inputs is proved again and taken.

    Raises:
        BringupError: the source is none, no toolkit serves, the build fails, or its result does not carry
            what was asked for or does not import. The log is kept.
    """
    began = time.monotonic()
    if os.name == "nt":
        raise BringupError("build-on-windows")
    try:
        with opened_source(path.expanduser().absolute()) as root:
            project = read_build(root)
            _check_environment(project, request)
            return _build(path, project, request, observer, began)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise BringupError("no-space", subject=path.name, path=state.cache()) from error
        where = error.filename or path
        raise BringupError("build-io", path=where, text=error.strerror or error) from error


def _inputs(project: BuildProject, request: BuildRequest, choice: ToolkitChoice) -> dict[str, Any]:
    torch = request.environment.torch if project.uses_torch else None
    python = request.environment.python
    return {
        "source": hash_tree(project.root),
        "torch": [torch.version, torch.git, torch.cuda] if torch else None,
        "python": [python.abi, python.platform],
        "cuda": choice.toolkit.release,
        "compiler": [choice.compiler.family, choice.compiler.version],
        "architectures": [choice.architectures.torch, choice.architectures.cmake],
        "variables": dict(request.variables),
    }


def _build(
    path: Path, project: BuildProject, request: BuildRequest, observer: Observer, began: float
) -> BuildResult:
    choice = _step(observer, "toolkit", lambda: _choose(project, request, observer))
    cache = BuildCache(cache_key(_inputs(project, request, choice)))
    cache.root.parent.mkdir(parents=True, exist_ok=True)
    sweep()
    with FileLock(cache.lock):
        kept = None if request.fresh else cache.find()
        builder = _Builder(project, request, choice, cache, observer)
        proof = builder.prove(kept.product) if kept else None
        if kept is None or proof is None or not proof.holds:
            kept, proof = builder.build(), builder.proof
            assert proof is not None
        product = _deliver(kept, request.output)
    seconds = time.monotonic() - began
    limits = builder.limits
    attempts = tuple(builder.attempts)
    cached = not attempts
    return BuildResult(
        str(path), project, product, kept.record["sha256"], cached, seconds, choice, limits, attempts, proof,
        cache.log,
    )  # fmt: skip


def _choose(project: BuildProject, request: BuildRequest, observer: Observer) -> ToolkitChoice:
    torch = request.environment.torch if project.uses_torch else None
    wish = ToolkitWish(
        request.wanted, torch.cuda if torch else None, request.driver, request.where, request.source
    )
    return choose_toolkit(request.environment, wish, lambda line: observer.line("toolkit", line))


def _step(observer: Observer, name: str, work: Callable[[], _Made]) -> _Made:
    observer.started(name)
    began = time.monotonic()
    result = work()
    observer.finished(name, time.monotonic() - began, False)
    return result


def _deliver(kept: Kept, output: Path) -> Path:
    """Copy the product to where it was asked for; nothing half-written stands under its name."""
    output.mkdir(parents=True, exist_ok=True)
    target = output / kept.product.name
    partial = output / f".{kept.product.name}.{os.getpid()}.partial"
    try:
        if kept.product.is_dir():
            shutil.copytree(kept.product, partial, symlinks=True)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        else:
            shutil.copyfile(kept.product, partial)
            partial.replace(target)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
    return target


def _must_append(project: BuildProject) -> bool:
    """Whether nothing but nvcc itself can be relied on to hear of the architectures."""
    if project.one_output or not project.cuda_sources:
        return False
    heard = "CUDAExtension" in project.text or project.uses_cmake
    return bool(project.pins) or not heard


class _Builder:
    """One build: its isolation, its attempts, its proof."""

    def __init__(
        self,
        project: BuildProject,
        request: BuildRequest,
        choice: ToolkitChoice,
        cache: BuildCache,
        observer: Observer,
    ) -> None:
        self._project, self._request, self._choice = project, request, choice
        self._cache, self._observer = cache, observer
        self._workshop = Workshop(cache.workshop)
        self._isolation: Isolation | None = None
        self.attempts: list[Attempt] = []
        self.proof: BuildProof | None = None
        self.limits = choose_jobs(
            read_host(), project.units, project.uses_torch, measured_peak(project.name), request.jobs
        )

    @property
    def isolation(self) -> Isolation:
        """Made when it is first needed."""
        if self._isolation is None:
            request = self._request
            self._isolation = _step(
                self._observer,
                "requirements",
                lambda: isolate(self._project, request.environment, request.source, self._cache.log),
            )
        return self._isolation

    def prove(self, product: Path) -> BuildProof:
        """Scan and import."""
        environment, choice, isolation = self._request.environment, self._choice, self.isolation
        lent = [choice.toolkit.libraries]
        lent += [root for site in package_folders(environment) for root in site.glob("nvidia/*/lib")]
        chips = [gpu.capability for gpu in self._request.wanted.gpus]
        return _step(
            self._observer,
            "proof",
            lambda: prove(
                product, choice.architectures, chips, environment, isolation, lent,
                self._project.uses_torch, self._cache.log,
            ),
        )  # fmt: skip

    def build(self) -> Kept:
        """Try until it is proved or cannot be mended."""
        self._cache.log.unlink(missing_ok=True)
        shutil.rmtree(self._workshop.root, ignore_errors=True)
        self._workshop.root.mkdir(parents=True)
        try:
            return self._until_proved()
        finally:
            shutil.rmtree(self._workshop.root, ignore_errors=True)

    def _until_proved(self) -> Kept:
        project, workshop = self._project, self._workshop
        copy_source(project, workshop)
        settings = Settings(self.limits.jobs, _must_append(project), True)
        if project.lto and not link_time_optimisation_works(self._choice.compiler):
            settings = self._without_lto(settings)
        includes = self._headers()
        while True:
            ran, seconds = self._run(settings, includes)
            if ran.code:
                settings = self._after_failure(settings, ran, seconds)
                continue
            product = find_product(project, workshop, self._request.environment.python)
            self.proof = self.prove(product)
            next_settings = self._after_proof(settings, ran, seconds)
            if next_settings is None:
                return self._cache.keep(product, {"name": project.name, "proof": asdict(self.proof)})
            settings = next_settings

    def _headers(self) -> list[Path]:
        """CUDA headers beside torch; fetched where torch's own headers want some that nobody has."""
        environment, toolkit = self._request.environment, self._choice.toolkit
        includes = lay_library_links(environment, None, self._workshop)
        here = [*includes, toolkit.root / "include"]
        if not self._project.uses_torch or any((folder / "cublas_v2.h").is_file() for folder in here):
            return includes
        try:
            extra = install_libraries(toolkit.version, self._request.source)
        except BringupError as error:
            if error.id not in UNREACHABLE and error.id != "toolkit-not-as-wheels":
                raise
            return includes  # Many extensions include none of them; the compiler will say.
        return lay_library_links(environment, extra, self._workshop)

    def _run(self, settings: Settings, includes: list[Path]) -> tuple[Ran, float]:
        project, workshop = self._project, self._workshop
        made = variables(
            project, self._request.environment, self.isolation, self._choice, workshop, includes, settings
        ) | dict(self._request.variables)
        log = self._cache.log
        install_dynamic_requirements(self.isolation, project, workshop.tree, made, self._request.source, log)
        step = f"compile-after-{self.attempts[-1].outcome}" if self.attempts else "compile"
        self._observer.started(step)
        began = time.monotonic()
        tell = lambda line: self._observer.line(step, line)  # noqa: E731
        ran = run_attempt(project, self.isolation, workshop, made, settings.jobs, log, tell)
        seconds = time.monotonic() - began
        if not ran.code:
            self._observer.finished(step, seconds, False)
        if ran.peak:
            remember_peak(project.name, ran.peak)
        return ran, seconds

    def _note(self, settings: Settings, ran: Ran, seconds: float, outcome: str) -> None:
        self.attempts.append(Attempt(settings.jobs, seconds, ran.peak, ran.together, outcome))

    def _without_lto(self, settings: Settings) -> Settings:
        turn_off_lto(self._project, self._workshop)
        return replace(settings, lto=False)

    def _after_failure(self, settings: Settings, ran: Ran, seconds: float) -> Settings:
        """The settings of the next attempt, or the error."""
        cause = cause_of(ran.log, ran.code)
        name, log = self._project.name, self._cache.log
        self._note(settings, ran, seconds, cause)
        if cause == "disk":
            raise BringupError("no-space", subject=name, path=self._workshop.root)
        if cause == "memory" and settings.jobs > 1:
            jobs = fewer_jobs(settings.jobs, ran.peak, self.limits.memory)
            if "Configuring incomplete" in ran.log:
                forget_objects(self._workshop)  # CMake would keep what it half knows of the compiler.
            return replace(settings, jobs=jobs)
        if cause == "memory":
            peak = f"{ran.peak / 1e9:.1f}"
            memory = f"{self.limits.memory / 1e9:.1f}"
            raise BringupError("build-out-of-memory", name=name, peak=peak, memory=memory, log=log)
        if cause == "lto" and self._project.lto and settings.lto:
            forget_objects(self._workshop)
            return self._without_lto(settings)
        raise BringupError("build-failed", name=name, text=first_errors(ran.log), log=log)

    def _after_proof(self, settings: Settings, ran: Ran, seconds: float) -> Settings | None:
        """None where it holds; the settings of another attempt where that may mend it."""
        proof, project = self.proof, self._project
        assert proof is not None
        name, log = project.name, self._cache.log
        if project.cuda_sources and not proof.binaries:
            raise BringupError("build-without-device-code", name=name, log=log)
        if proof.holds:
            self._note(settings, ran, seconds, "built")
            return None
        if proof.lost_its_init and project.lto and settings.lto:
            self._note(settings, ran, seconds, "lto")
            forget_objects(self._workshop)
            return self._without_lto(settings)
        if proof.missing and not settings.append and not project.one_output:
            self._note(settings, ran, seconds, "architecture")
            forget_objects(self._workshop)
            return replace(settings, append=True)
        if proof.missing:
            pins = " · ".join(f"{pin.file}:{pin.line} {pin.text}" for pin in project.pins[:3]) or "–"
            carried = ", ".join(sorted({code for row in proof.binaries for code in row.machine_code})) or "–"
            missing = ", ".join(proof.missing)
            raise BringupError(
                "build-architecture-missing", name=name, missing=missing, carried=carried, pins=pins, log=log
            )
        raise BringupError("build-does-not-import", name=name, text=proof.import_error, log=log)
