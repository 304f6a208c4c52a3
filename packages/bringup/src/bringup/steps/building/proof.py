"""What a build is worth: its binaries read back and its modules imported. An exit status proves neither."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bringup.binaries.architectures import ArchitectureList, ComputeCapability
from bringup.binaries.compatibility import Status
from bringup.binaries.report import BinaryReport, scan_path
from bringup.facts.environment import EnvironmentFacts
from bringup.steps.building.isolation import Isolation
from bringup.steps.building.products import module_name
from bringup.steps.processes import run_logged
from bringup.steps.target import VirtualEnvironment
from bringup.steps.toolkit.pip import pip_environment

_NO_EXPORT = "does not define module export function"
_DRIVER_LIBRARY = ("libcuda.so", "libnvidia-ml.so", "nvcuda.dll")


@dataclass(frozen=True)
class BinaryProof:
    """One binary with device code. `runs_on`: architecture name of a chip → how it fares."""

    path: str
    machine_code: tuple[str, ...]
    ptx: tuple[str, ...]
    runs_on: dict[str, Status]


@dataclass(frozen=True)
class BuildProof:
    """What was seen.

    Attributes:
        missing: "sm_120 in extension.so" for each architecture that a binary does not carry throughout.
        imported: None where it could not be tried: the driver's library is not on this machine.
        modules: what was imported. needs: libraries and modules that were lent, or are not installed.
    """

    binaries: tuple[BinaryProof, ...]
    missing: tuple[str, ...]
    imported: bool | None
    modules: tuple[str, ...]
    import_error: str | None
    needs: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.missing and self.imported is not False

    @property
    def lost_its_init(self) -> bool:
        """What link-time optimisation does where the linker has no plugin for it."""
        return _NO_EXPORT in (self.import_error or "")


def prove(
    product: Path,
    architectures: ArchitectureList,
    chips: Sequence[ComputeCapability],
    environment: EnvironmentFacts,
    isolation: Isolation,
    libraries: Sequence[Path],
    with_torch: bool,
    log: Path,
) -> BuildProof:
    """Scan and import a product.

    Args:
        chips: judged beside the architectures themselves.
        libraries: folders that may lend CUDA's runtime where the environment has none.
    """
    reports = [row for row in scan_path(product) if isinstance(row, BinaryReport) and row.has_device_code]
    missing = [text for report in reports for text in _missing(report, architectures)]
    every = sorted({*chips, *(row.capability for row in architectures.machine_code)})
    binaries = tuple(
        BinaryProof(
            _inside(report.path, product),
            report.machine_code,
            report.ptx,
            {chip.sm: report.runs_on(chip).status for chip in every},
        )
        for report in reports
    )
    imported, modules, error, needs = _import(product, environment, isolation, libraries, with_torch, log)
    return BuildProof(binaries, tuple(missing), imported, modules, error, needs)


def _inside(path: str, product: Path) -> str:
    return path.removeprefix(str(product)).lstrip("/\\") or product.name


def _missing(report: BinaryReport, architectures: ArchitectureList) -> list[str]:
    """What a binary was to carry and does not: named in the file, and an image in each counting container."""
    name = Path(report.path).name
    lacking = [
        code.sm
        for code in architectures.machine_code
        if code.sm not in report.machine_code or report.runs_on(code.capability).status != "machine-code"
    ]
    lacking += [code.compute for code in architectures.ptx if code.compute not in report.ptx]
    return [f"{architecture} in {name}" for architecture in lacking]


_Imported = tuple[bool | None, tuple[str, ...], str | None, tuple[str, ...]]


def _import(
    product: Path,
    environment: EnvironmentFacts,
    isolation: Isolation,
    libraries: Sequence[Path],
    with_torch: bool,
    log: Path,
) -> _Imported:
    with tempfile.TemporaryDirectory(prefix="bringup-") as temporary:
        folder = product
        if product.suffix == ".whl":
            folder = Path(temporary) / "site"
            options = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--target", str(folder)]
            command = [*isolation.pip, "install", *options, str(product)]
            outcome = run_logged(command, log, environment=pip_environment())
            if outcome.code:
                return False, (), outcome.tail.strip()[-300:], ()
        arguments = {
            "path": str(folder),
            "torch": with_torch,
            "modules": list(_modules(folder)),
            "packages": _packages(folder) if product.suffix == ".whl" else [],
            "libraries": _plain_libraries(folder) if product.suffix != ".whl" else [],
            "folders": [str(path) for path in libraries],
        }
        answer = VirtualEnvironment(Path(environment.root)).probe("extensions", arguments)
    names = tuple(answer.get("modules", ()))
    needs = tuple(answer.get("needs", ()))
    if "modules" not in answer:
        return False, (), f"{answer.get('crash')}: {str(answer.get('output', '')).strip()[-300:]}", ()
    wrong = [f"{name}: {row['error']}" for name, row in answer["modules"].items() if not row["ok"]]
    if not wrong:
        return True, names, None, needs
    if all(any(library in text for library in _DRIVER_LIBRARY) for text in wrong):
        return None, names, " · ".join(wrong), needs
    return False, names, " · ".join(wrong)[:500], needs


def _modules(folder: Path) -> list[dict[str, str]]:
    """Dotted names and files of the extension modules below a folder."""
    rows = []
    for file in sorted(folder.rglob("*")):
        name = module_name(file.name)
        if name and file.is_file():
            rows.append({"name": ".".join([*file.relative_to(folder).parent.parts, name]), "file": str(file)})
    return rows


def _packages(folder: Path) -> list[str]:
    """Top-level packages and modules of an installed wheel."""
    packages = [path.parent.name for path in sorted(folder.glob("*/__init__.py"))]
    return packages + [path.stem for path in sorted(folder.glob("*.py"))]


def _plain_libraries(folder: Path) -> list[str]:
    """Shared libraries that are no Python modules."""
    found = sorted(path for path in folder.rglob("*.so*") if path.is_file() and not path.is_symlink())
    return [str(path) for path in found if not module_name(path.name)]
