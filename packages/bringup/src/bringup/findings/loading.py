"""Rules about loading: libraries that are not there, functions that the installed torch does not have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bringup.binaries.elf import read_elf
from bringup.binaries.elf_symbols import defined_symbols, undefined_symbols
from bringup.binaries.report import BinaryReport
from bringup.binaries.source import Damaged, open_source
from bringup.facts.environment import EnvironmentFacts
from bringup.findings.kernel_images import owner_name
from bringup.findings.model import Evidence, Examined, Finding

# Mangled names in torch's namespaces: at::, c10::, torch::, caffe2:: (Itanium C++ ABI, «Mangling»).
_TORCH_SYMBOL = re.compile(r"_ZT?[VISC]?N?K?(?:2at|3c10|5torch|6caffe2)|_ZNK?(?:2at|3c10|5torch|6caffe2)")
_TORCH_LIBRARIES = ("libtorch", "libc10", "libshm", "libcaffe2")
# The driver's own libraries come with the driver; they are judged by the driver's rules.
_OF_THE_DRIVER = re.compile(r"libcuda\.so|libnvidia-|libnvcuvid|libnvoptix")
_SYSTEM = re.compile(
    r"(?:libc|libm|libdl|librt|libpthread|libutil|libresolv|libgcc_s|libstdc\+\+|ld-linux[\w-]*|libanl|libnsl)\.so"
)


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


def undefined_symbol(examined: Examined) -> Iterator[Finding]:
    """An extension calls functions of torch that the installed torch does not have."""
    environment = examined.environment
    if environment is None or environment.torch is None:
        return
    libraries = _torch_files(environment)
    if not libraries:
        return
    for report in _extensions(environment):
        try:
            missing = set(_undefined(report.path))
            siblings = [r.path for r in environment.binaries if Path(r.path).name in report.needed]
            for library in [*libraries, *siblings]:
                missing -= _defined(library, missing)
                if not missing:
                    break
        except (Damaged, OSError):
            continue
        if missing:
            name = min(missing)
            subject = owner_name(environment, report)
            evidence = (
                Evidence(report.path, "undefined symbol", name),
                Evidence(f"{environment.torch.folder}/version.py", "version", environment.torch.version),
            )
            error = f"ImportError: {report.path}: undefined symbol: {name}"
            portable = examined.catalog.portable_replacement(subject)
            shim = f'portable-kernels install --shim {subject.replace("-", "_")} --env "{environment.root}"'
            fix = shim if portable else f'bringup build {subject} --env "{environment.root}"'
            parameters = {"file": Path(report.path).name, "symbol": name, "count": str(len(missing))}
            parameters |= {"torch": environment.torch.version}
            yield Finding("undefined-symbol", "error", subject, evidence, error, fix, parameters)


@cache
def _system_folders() -> tuple[Path, ...]:
    folders = [Path(text) for text in os.environ.get("LD_LIBRARY_PATH", "").split(":") if text]
    for file in (Path("/etc/ld.so.conf"), *sorted(Path("/etc/ld.so.conf.d").glob("*.conf"))):
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        folders += [Path(line.strip()) for line in lines if line.strip().startswith("/")]
    folders += [Path(text) for text in ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")]
    triplets = ("x86_64-linux-gnu", "aarch64-linux-gnu")
    return (*folders, *(Path(base) / name for base in ("/lib", "/usr/lib") for name in triplets))


def _search_path(report: BinaryReport) -> list[Path]:
    origin = str(Path(report.path).parent)
    texts = report.runpath or report.rpath
    return [Path(text.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)) for text in texts if text]


def _is_found(library: str, report: BinaryReport, carried: set[str], environment: EnvironmentFacts) -> bool:
    """Where the loader looks, and what torch and its neighbours have loaded by then (by the same name)."""
    if library in carried:
        return True
    folders = [*_search_path(report), Path(environment.root) / "lib", *_system_folders()]
    if environment.base:
        folders.append(Path(environment.base) / "lib")
    return any((folder / library).exists() for folder in folders)


def missing_library(examined: Examined) -> Iterator[Finding]:
    """A library that a torch extension asks for is nowhere."""
    environment = examined.environment
    if environment is None:
        return
    carried = {Path(report.path).name for report in environment.binaries}
    carried |= {report.soname for report in environment.binaries if report.soname}
    for report in _extensions(environment):
        for library in report.needed:
            if _OF_THE_DRIVER.match(library) or _SYSTEM.match(library):
                continue
            if _is_found(library, report, carried, environment):
                continue
            subject = owner_name(environment, report)
            searched = ":".join(map(str, _search_path(report))) or "no RPATH"
            evidence = (Evidence(report.path, "DT_NEEDED", library), Evidence(report.path, "RPATH", searched))
            error = f"ImportError: {library}: cannot open shared object file: No such file or directory"
            portable = examined.catalog.portable_replacement(subject)
            shim = f'portable-kernels install --shim {subject.replace("-", "_")} --env "{environment.root}"'
            fix = shim if portable else f'bringup build {subject} --env "{environment.root}"'
            parameters = {"file": Path(report.path).name, "library": library}
            yield Finding("missing-library", "error", subject, evidence, error, fix, parameters)
            break
