"""Rule about symbols: functions that an extension calls and the installed torch does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bringup.binaries.elf import read_elf
from bringup.binaries.elf_symbols import defined_symbols, undefined_symbols
from bringup.binaries.report import BinaryReport
from bringup.binaries.source import Damaged, open_source
from bringup.facts.environment import EnvironmentFacts
from bringup.findings.kernel_images import owner_name
from bringup.findings.model import Evidence, Examined, Finding
from bringup.findings.repairs import extension_fix

# Mangled names in torch's namespaces: at::, c10::, torch::, caffe2:: (Itanium C++ ABI, «Mangling»).
_TORCH_SYMBOL = re.compile(r"_ZT?[VISC]?N?K?(?:2at|3c10|5torch|6caffe2)|_ZNK?(?:2at|3c10|5torch|6caffe2)")
_TORCH_LIBRARIES = ("libtorch", "libc10", "libshm", "libcaffe2")


def _extensions(environment: EnvironmentFacts) -> Iterator[BinaryReport]:
    for report in environment.binaries:
        if report.kind == "elf" and report.torch_extension:
            yield report


def _torch_files(environment: EnvironmentFacts) -> list[str]:
    assert environment.torch is not None
    folder = Path(environment.torch.folder) / "lib"
    found = sorted(folder.glob("*.so*")) if folder.is_dir() else []
    return [str(path) for path in found if path.name.startswith(_TORCH_LIBRARIES)]


def _undefined(path: str) -> list[str]:
    with open_source(path) as source:
        symbols = undefined_symbols(source, read_elf(source))
    return [symbol.name for symbol in symbols if not symbol.weak and _TORCH_SYMBOL.match(symbol.name)]


def _defined(path: str, names: set[str]) -> frozenset[str]:
    with open_source(path) as source:
        return defined_symbols(source, read_elf(source), names)


def _missing_symbols(report: BinaryReport, environment: EnvironmentFacts, libraries: list[str]) -> set[str]:
    """torch's symbols that a file asks for and that neither torch nor the file's own libraries define."""
    try:
        missing = set(_undefined(report.path))
        own = [row.path for row in environment.binaries if Path(row.path).name in report.needed]
        for library in [*libraries, *own]:
            if not missing:
                break
            missing -= _defined(library, missing)
    except (Damaged, OSError):
        return set()  # What cannot be read is listed as such; nothing is claimed of it.
    return missing


def undefined_symbol(examined: Examined) -> Iterator[Finding]:
    """Extensions of a distribution call functions of torch that the installed torch does not have."""
    environment = examined.environment
    if environment is None or environment.torch is None:
        return
    libraries = _torch_files(environment)
    groups: dict[str, list[tuple[BinaryReport, set[str]]]] = {}
    for report in _extensions(environment) if libraries else ():
        missing = _missing_symbols(report, environment, libraries)
        if missing:
            groups.setdefault(owner_name(environment, report), []).append((report, missing))
    for subject, rows in groups.items():
        report, missing = rows[0]
        name = min(missing)
        version = Evidence(f"{environment.torch.folder}/version.py", "version", environment.torch.version)
        told = (Evidence(row.path, "undefined symbol", min(names)) for row, names in rows)
        error = f"ImportError: {report.path}: undefined symbol: {name}"
        count = len(set().union(*(names for _, names in rows)))
        parameters = {"file": Path(report.path).name, "symbol": name, "count": str(count)}
        parameters |= {"torch": environment.torch.version}
        fix = extension_fix(examined, subject)
        yield Finding("undefined-symbol", "error", subject, (*told, version), error, fix, parameters)
