"""Rules about binary interfaces: extension modules of another Python, a C or C++ library that is too old."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import Version

from bringup.binaries.elf import VersionNeed
from bringup.binaries.report import BinaryReport
from bringup.facts.environment import EnvironmentFacts
from bringup.findings.kernel_images import owner_name
from bringup.findings.model import Evidence, Examined, Finding, Severity
from bringup.findings.repairs import extension_fix, pip

_MODULE_TAG = re.compile(
    # Up to 3.7 an «m» followed the number.
    r"\.cpython-(?P<linux>\d{2,3}t?)m?-[\w-]+\.so$|\.cp(?P<windows>\d{2,3}t?)-win\w+\.pyd$"
)


@dataclass
class _Modules:
    """The extension modules of one distribution by whether this Python imports them: module → file."""

    foreign: dict[str, str] = field(default_factory=dict)
    fitting: set[str] = field(default_factory=set)


def _by_distribution(environment: EnvironmentFacts) -> dict[str, _Modules]:
    here = environment.python.abi.removeprefix("cp")
    found: dict[str, _Modules] = {}
    for report in environment.binaries:
        tag = _MODULE_TAG.search(report.path)
        owner = environment.owner(report.path)
        if not tag and owner and report.path.endswith((".abi3.so", ".abi3.pyd")):
            found.setdefault(owner.key, _Modules()).fitting.add(report.path)  # fits every Python 3
        if not tag:
            continue
        module = report.path[: tag.start()]
        row = found.setdefault(owner.key if owner else Path(module).name, _Modules())
        if (tag["linux"] or tag["windows"]) == here:
            row.fitting.add(module)
        else:
            row.foreign[module] = report.path
    return found


def wrong_python_abi(examined: Examined) -> Iterator[Finding]:
    """Extension modules whose names bear another Python's tag, with none for this Python beside them."""
    environment = examined.environment
    if environment is None:
        return
    for subject, modules in _by_distribution(environment).items():
        lost = {module: path for module, path in modules.foreign.items() if module not in modules.fitting}
        if not lost:
            continue
        path = min(lost.values())
        python = Evidence(environment.root, "Python", environment.python.abi)
        files = (Evidence(path, "file name", Path(path).name) for path in sorted(lost.values()))
        parameters = {"file": Path(path).name, "python": environment.python.version}
        # Some packages carry modules for several Pythons and need only a part of them.
        severity: Severity = "warning" if modules.fitting else "error"
        name = Path(min(lost)).name
        error = f"ModuleNotFoundError: No module named '{name}'"
        fix = _reinstall(examined, subject)
        evidence = (*files, python)
        yield Finding(
            "wrong-python-abi",
            severity,
            subject,
            evidence,
            error,
            fix,
            parameters,
        )


def _reinstall(examined: Examined, subject: str) -> str:
    if examined.catalog.extension(subject):
        return extension_fix(examined, subject)
    return f"{pip(examined)} install --force-reinstall --no-deps {subject}"


def _lacking(need: VersionNeed, offered: dict[str, str | None]) -> tuple[str, str] | None:
    """(wanted, offered) of one version that the system's library does not have."""
    for prefix, version in offered.items():
        number = need.version.removeprefix(prefix)
        known = number != need.version and re.fullmatch(r"\d+(\.\d+)*", number)
        if known and version is not None and Version(number) > Version(version):
            return need.version, f"{prefix}{version}"
    return None


def system_too_old(examined: Examined) -> Iterator[Finding]:
    """Files of a distribution want a newer C or C++ library than the system has."""
    environment = examined.environment
    if environment is None:
        return
    offered = {"GLIBCXX_": environment.libraries.glibcxx, "GLIBC_": environment.libraries.glibc}
    groups: dict[str, list[tuple[BinaryReport, VersionNeed, str, str]]] = {}
    for report in environment.binaries:
        for need in report.versions if report.kind == "elf" else ():
            lacking = _lacking(need, offered)
            if lacking:
                groups.setdefault(owner_name(environment, report), []).append((report, need, *lacking))
    for subject, rows in groups.items():
        report, need, wanted, has = max(rows, key=lambda row: Version(row[2].rpartition("_")[2]))
        evidence = tuple(
            part
            for report, need, wanted, has in rows
            for part in (
                Evidence(report.path, "version needs", wanted),
                Evidence(need.library, "offers", has),
            )
        )
        error = f"{need.library}: version `{wanted}' not found (required by {report.path})"
        parameters = {"file": Path(report.path).name, "wanted": wanted, "offered": has}
        # pip takes only wheels that this system's C library serves.
        fix = f"{pip(examined)} install --force-reinstall --no-deps --only-binary :all: {subject}"
        if examined.catalog.extension(subject):
            fix = extension_fix(examined, subject)
        if wanted.startswith("GLIBCXX_") and environment.kind == "conda":
            fix = f'conda install -p "{environment.root}" -c conda-forge libstdcxx-ng'
        once = tuple(dict.fromkeys(evidence))
        yield Finding("system-library-too-old", "error", subject, once, error, fix, parameters)
