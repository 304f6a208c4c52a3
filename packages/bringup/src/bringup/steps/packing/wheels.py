"""Wheels of a plan: its lock, what its source packages build to, our own packages, and what builds them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from bringup.errors import BringupError
from bringup.plan.model import LockedPackage, Plan
from bringup.plan.own_packages import find_own_package
from bringup.plan.resolve import explain_installer_failure, source_option
from bringup.plan.steps import BuildExtension, CreateEnvironment, InstallOwn
from bringup.steps.downloads import sha256_of
from bringup.steps.installers import OnLine, requirement_lines
from bringup.steps.processes import run_logged
from bringup.steps.toolkit.pip import pip_environment, pip_for
from bringup.steps.toolkit.wheels import COMPILER

_ALONE = 50_000_000  # pip keeps nothing of a call that is broken off: large files get one each.
# What the checkouts of our own packages are built with, and a pip that is new enough for the resolver.
_OWN_TOOLS = ("hatchling>=1.27", "editables", "pip>=25.1")
# What extensions are built with, whatever their own [build-system] leaves out.
_BUILD_TOOLS = (
    "setuptools",
    "setuptools<82",
    "wheel",
    "cmake>=3.24",
    "ninja>=1.11",
    "pybind11",
    "scikit-build-core",
)


class WheelPacker:
    """Fills one folder for the plan's interpreter.

    Args:
        find_links: folders of wheels of the user's.

    Raises:
        BringupError: `no-pip`.
    """

    def __init__(self, plan: Plan, folder: Path, find_links: Sequence[Path], log: Path) -> None:
        first = plan.steps[0]
        assert isinstance(first, CreateEnvironment)
        pip = pip_for(Path(first.interpreter))
        if pip is None:
            raise BringupError("no-pip", path=first.interpreter)
        self._pip = [*pip]
        self._plan = plan
        self._folder = folder
        self._links = [f"--find-links={folder}" for folder in find_links]
        self._log = log
        folder.mkdir(parents=True, exist_ok=True)

    def _run(self, arguments: Sequence[str], subject: str, on_line: OnLine) -> None:
        command = [*self._pip, *arguments]
        outcome = run_logged(command, self._log, environment=pip_environment(), on_line=on_line)
        if outcome.code:
            raise explain_installer_failure(outcome.tail, subject)

    def wheels(self) -> dict[tuple[str, Version], Path]:
        """(name, version) → wheel, of what is in the folder."""
        found = {}
        for file in sorted(self._folder.glob("*.whl")):
            try:
                name, version, _, _ = parse_wheel_filename(file.name)
            except InvalidWheelFilename:
                continue
            found[str(name), version] = file
        return found

    def _has(self, package: LockedPackage) -> bool:
        wheel = self.wheels().get((canonicalize_name(package.name), Version(package.version)))
        if wheel is None:
            return False
        # A source package's hash says nothing of the wheel that was built from it.
        return package.sha256 is None or wheel.name != package.file or sha256_of(wheel) == package.sha256

    def lock(self, on_line: OnLine) -> None:
        """Bring every locked package, with its hash checked."""
        missing = [package for package in self._plan.packages if not self._has(package)]
        large = [package for package in missing if (package.size or 0) >= _ALONE]
        for package in large:
            self._download([package], on_line)
        small = [package for package in missing if package not in large]
        for index in dict.fromkeys(package.index for package in small):
            self._download([package for package in small if package.index == index], on_line)
        self._build_source_packages(on_line)

    def _download(self, packages: Sequence[LockedPackage], on_line: OnLine) -> None:
        index = packages[0].index
        extra = [source_option(self._plan.indexes[index])] if index else []
        subject = ", ".join(package.name for package in packages[:3])
        hashes = ["--require-hashes"] if all(package.sha256 for package in packages) else []
        with tempfile.TemporaryDirectory(prefix="bringup-") as staging:
            requirements = Path(staging) / "requirements.txt"
            requirements.write_text(requirement_lines(packages), encoding="utf-8")
            words = ["download", "--no-deps", *hashes, *extra, *self._links]
            words += ["--dest", str(self._folder), "-r", str(requirements)]
            self._run(words, subject, on_line)

    def _build_source_packages(self, on_line: OnLine) -> None:
        """A machine without network cannot build them: their own build requirements are not there."""
        for archive in sorted([*self._folder.glob("*.tar.gz"), *self._folder.glob("*.zip")]):
            words = ["wheel", "--no-deps", *self._links, "--wheel-dir", str(self._folder), str(archive)]
            self._run(words, archive.name, on_line)
            archive.unlink()

    def own(self, on_line: OnLine) -> None:
        """Our own packages and bringup itself as wheels, with what bringup needs, and what builds them."""
        steps = [step.package for step in self._plan.steps if isinstance(step, InstallOwn)]
        for name in dict.fromkeys([*steps, "bringup"]):
            package = find_own_package(name)
            for stale in self._folder.glob(f"{name.replace('-', '_')}-*.whl"):
                stale.unlink()
            words = ["wheel", "--no-deps", *self._links, "--wheel-dir", str(self._folder), str(package.path)]
            self._run(words, name, on_line)
        self._with_dependencies([*find_own_package("bringup").requirements, *_OWN_TOOLS], on_line)

    def build_tools(self, requires: Iterable[str], cuda: str | None, on_line: OnLine) -> None:
        """What the plan's extensions are compiled with; for CUDA 13 the compiler itself comes as wheels.

        Args:
            requires: the extensions' own `[build-system].requires`.
            cuda: torch's CUDA ("13.0").
        """
        if not any(isinstance(step, BuildExtension) for step in self._plan.steps):
            return
        for row in dict.fromkeys([*requires, *_BUILD_TOOLS]):
            self._with_dependencies([row], on_line)
        if cuda and int(cuda.partition(".")[0]) >= 13:
            self._with_dependencies([f"cuda-toolkit[{','.join(COMPILER)}]=={cuda}.*"], on_line)

    def _with_dependencies(self, requirements: Sequence[str], on_line: OnLine) -> None:
        """Download with what they need, in the plan's own versions where they fit."""
        words = ["download", "--only-binary=:all:", *self._links, f"--find-links={self._folder}"]
        words += ["--dest", str(self._folder)]
        with tempfile.TemporaryDirectory(prefix="bringup-") as staging:
            constraints = Path(staging) / "constraints.txt"
            rows = (f"{package.name}=={package.version}\n" for package in self._plan.packages)
            constraints.write_text("".join(rows), encoding="utf-8")
            subject = ", ".join(requirements[:3])
            try:
                self._run([*words, "--constraint", str(constraints), *requirements], subject, on_line)
            except BringupError as error:
                if error.id not in ("requirements-conflict", "no-matching-distribution", "no-versions"):
                    raise
                self._run([*words, *requirements], subject, on_line)
