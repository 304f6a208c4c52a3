"""Rule about needed libraries: each distribution's modules are followed as the dynamic loader would.

Sources: ld.so(8) (RPATH, RUNPATH, `$ORIGIN`, LD_LIBRARY_PATH, ld.so.conf; a library that the process has
loaded already serves under its soname); torch/__init__.py, which loads torch's own libraries and with them
the NVIDIA wheels that they need before any extension.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from bringup.binaries.elf import read_elf
from bringup.binaries.elf_symbols import defined_symbols
from bringup.binaries.report import BinaryReport
from bringup.binaries.source import Damaged, open_source
from bringup.catalog.schema import Library
from bringup.facts.environment import EnvironmentFacts
from bringup.facts.environment_loader import within
from bringup.findings.kernel_images import owner_name
from bringup.findings.model import Evidence, Examined, Finding, Severity
from bringup.findings.repairs import extension_fix, pip

# The driver's own libraries come with the driver; they are judged by the driver's rules.
_OF_THE_DRIVER = re.compile(r"libcuda\.so|libnvidia-|libnvcuvid|libnvoptix|libcudadebugger")
_SYSTEM = re.compile(
    r"(?:libc|libm|libdl|librt|libpthread|libutil|libresolv|libgcc_s|libstdc\+\+|ld-linux[\w-]*|libanl|libnsl"
    r"|libcrypt|libatomic)\.so|ld-(?:linux|musl)|linux-vdso"
)
_MOST_NAMED = 6
_MODULE_TAG = re.compile(r"\.(?:cpython-\d+\w*-[\w-]+|abi3)\.so$")


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _folder(path: str) -> str:
    return path.rsplit("/", 1)[0]


def _required_name(text: str) -> str | None:
    try:
        return canonicalize_name(Requirement(text).name)
    except InvalidRequirement:
        return None


@dataclass(frozen=True)
class Missing:
    """A library that one file asks for and that nothing leads to. `elsewhere`: where it lies unheard of."""

    report: BinaryReport
    library: str
    elsewhere: str | None = None


@dataclass
class _Loader:
    """What the dynamic loader would find in this environment."""

    environment: EnvironmentFacts
    _seen: dict[str, bool] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> dict[str, BinaryReport]:
        """Every shared object of the environment under its file name and its soname."""
        found: dict[str, BinaryReport] = {}
        for report in self.environment.binaries:
            if report.kind == "elf":
                found.setdefault(_base(report.path), report)
                if report.soname:
                    found.setdefault(report.soname, report)
        return found

    @cached_property
    def by_path(self) -> dict[str, BinaryReport]:
        return {os.path.normpath(report.path): report for report in self.environment.binaries}

    @cached_property
    def _system(self) -> tuple[Path, ...]:
        prefixes = [self.environment.root, self.environment.base]
        return (
            *(Path(prefix) / "lib" for prefix in prefixes if prefix),
            *map(Path, self.environment.loader_folders),
        )

    def search_path(self, report: BinaryReport) -> list[Path]:
        """RUNPATH, or RPATH where there is none, with `$ORIGIN` put in."""
        origin = _folder(report.path)
        folders = []
        for text in report.runpath or report.rpath:
            if "$ORIGIN" in text or "${ORIGIN}" in text:
                folders.append(Path(text.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)))
            elif text.startswith("/"):
                folders.append(within(Path(self.environment.filesystem), text))
        return folders

    def on_path(self, library: str, report: BinaryReport) -> BinaryReport | bool:
        """The environment's file that the search path leads to; True for one of the system; False: none."""
        for folder in self.search_path(report):
            path = os.path.normpath(folder / library)
            if path in self.by_path:
                return self.by_path[path]
            if Path(path).exists():
                return True
        if library not in self._seen:
            self._seen[library] = any((folder / library).exists() for folder in self._system)
        return self._seen[library]

    @cached_property
    def _dependencies(self) -> dict[str, set[str]]:
        """Distribution → those that it requires, one step."""
        found: dict[str, set[str]] = {}
        for row in self.environment.distributions:
            names = found.setdefault(row.key, set())
            for text in row.requires:
                name = _required_name(text)
                if name:
                    names.add(name)
        return found

    def _required(self, name: str) -> set[str]:
        """The distribution and all that it requires, however deeply."""
        reached, waiting = {name}, [name]
        while waiting:
            for other in self._dependencies.get(waiting.pop(), set()) - reached:
                reached.add(other)
                waiting.append(other)
        return reached

    def preloaded(self, holder: BinaryReport, report: BinaryReport) -> bool:
        """Whether what holds the library would have loaded it by then.

        Packages load their own libraries by path, torch its own and NVIDIA's, and whoever requires a
        package imports it first.
        """
        if "/nvidia/" in holder.path or "/torch/lib/" in holder.path:
            return True
        owner, asker = owner_name(self.environment, holder), owner_name(self.environment, report)
        if owner == asker or owner.startswith(("nvidia-", "cuda-", "tensorrt")):
            return True
        return _folder(holder.path) == _folder(report.path) or owner in self._required(asker)


def _is_module(report: BinaryReport) -> bool:
    """Whether Python imports the file: by its tag, or by the entry point that it exports."""
    if _MODULE_TAG.search(report.path):
        return True
    stem = _base(report.path).split(".")[0]
    if not stem.isidentifier() or not report.path.endswith(".so"):
        return False
    try:
        with open_source(report.path) as source:
            return bool(defined_symbols(source, read_elf(source), {f"PyInit_{stem}"}))
    except (Damaged, OSError):
        return False


def _of_other_cuda(library: str, report: BinaryReport, examined: Examined) -> bool:
    """A CUDA library of another major than torch's, which torch therefore does not load beforehand."""
    torch = examined.environment.torch if examined.environment else None
    if torch is None or not torch.cuda or not report.torch_extension:
        return False
    rows = [row for row in examined.catalog.libraries if row.cuda and re.fullmatch(row.soname, library)]
    return bool(rows) and all(row.cuda != int(torch.cuda.split(".")[0]) for row in rows)


def _missing_of(root: BinaryReport, loader: _Loader, examined: Examined, done: set[str]) -> Iterator[Missing]:
    """What a module and the libraries that it brings along ask for in vain."""
    waiting = [root]
    while waiting:
        report = waiting.pop()
        if report.path in done:
            continue
        done.add(report.path)
        for library in report.needed:
            if _SYSTEM.match(library) or _OF_THE_DRIVER.match(library) or "/" in library:
                continue
            found = loader.on_path(library, report)
            if isinstance(found, BinaryReport):
                waiting.append(found)
            elif not found:
                holder = loader.by_name.get(library)
                foreign = _of_other_cuda(library, report, examined)
                if (
                    holder
                    and not foreign
                    and (loader.preloaded(holder, report) or loader.preloaded(holder, root))
                ):
                    waiting.append(holder)
                else:
                    yield Missing(report, library, holder.path if holder else None)


def _variant(text: str) -> str:
    """A name without its digits: libtorchcodec_core4.so and …core8.so are one back end."""
    return re.sub(r"\d+", "#", text)


def _without_alternatives(rows: list[Missing], environment: EnvironmentFacts) -> list[Missing]:
    """Drop files of which a sibling, the same but for its number, finds all that it wants."""
    broken = {row.report.path for row in rows}
    whole = {
        _variant(report.path)
        for report in environment.binaries
        if report.path not in broken and report.kind == "elf"
    }
    return [row for row in rows if _variant(row.report.path) not in whole]


def _is_replaceable(library: Library | None, subject: str) -> bool:
    """Whether what asks for it does without and loses nothing that was promised."""
    return library is not None and (library.replaceable or subject.startswith(library.replaceable_for))


def _is_optional(row: Missing, rows: list[Missing], library: Library | None) -> bool:
    """A library that the catalog calls optional, or one of several back ends that each want another."""
    if library is not None and library.optional:
        return True
    siblings = {other.library for other in rows if _variant(other.report.path) == _variant(row.report.path)}
    return len({name for name in siblings if _variant(name) == _variant(row.library)}) > 1


def _wanted_cuda(examined: Examined, rows: list[Missing]) -> int | None:
    """The CUDA major that most of the missing libraries can be of; that of torch where they say nothing."""
    majors: Counter[int] = Counter()
    for row in rows:
        known = (library for library in examined.catalog.libraries if library.cuda)
        majors.update(
            {library.cuda for library in known if library.cuda and re.fullmatch(library.soname, row.library)}
        )
    torch = examined.environment.torch if examined.environment else None
    own = int(torch.cuda.split(".")[0]) if torch and torch.cuda else None
    if not majors:
        return own
    most = max(majors.values())
    candidates = [major for major, count in majors.items() if count == most]
    return own if own in candidates else max(candidates)


def _fix(examined: Examined, subject: str, rows: list[Missing], libraries: list[Library | None]) -> str:
    foreign = any(_of_other_cuda(row.library, row.report, examined) for row in rows)
    if foreign:
        return extension_fix(examined, subject)
    wheels = list(dict.fromkeys(row.wheel for row in libraries if row and row.wheel))
    packages = list(dict.fromkeys(row.debian for row in libraries if row and row.debian))
    if wheels:
        return f"{pip(examined)} install " + " ".join(f'"{name}"' for name in wheels)
    if subject.startswith("opencv-python") and "libgl1" in packages:
        return f"{pip(examined)} install --force-reinstall --no-deps {_headless(subject)}"
    if packages:
        return "apt-get install " + " ".join(packages)
    if any(row.report.torch_extension for row in rows) or examined.catalog.extension(subject):
        return extension_fix(examined, subject)
    return f"apt-file search {rows[0].library}"


def _some(names: list[str]) -> str:
    """The first few of a long list; the evidence has them all."""
    more = f" (+{len(names) - _MOST_NAMED})" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _headless(name: str) -> str:
    return name if name.endswith("-headless") else f"{name}-headless"


def _finding(examined: Examined, loader: _Loader, subject: str, rows: list[Missing]) -> Finding:
    """All libraries that one distribution misses."""
    cuda = _wanted_cuda(examined, rows)
    libraries = [examined.catalog.library(row.library, cuda) for row in rows]
    optional = [_is_optional(row, rows, found) for row, found in zip(rows, libraries, strict=True)]
    order = sorted(range(len(rows)), key=lambda index: optional[index])
    rows, libraries = [rows[index] for index in order], [libraries[index] for index in order]
    evidence = []
    for row in rows:
        evidence.append(Evidence(row.report.path, "DT_NEEDED", row.library))
        searched = ":".join(map(str, loader.search_path(row.report)))
        if searched:
            evidence.append(Evidence(row.report.path, "RPATH", searched))
        if row.elsewhere:
            evidence.append(Evidence(row.elsewhere, "not on the search path", row.library))
    names = list(dict.fromkeys(row.library for row in rows))
    first = rows[0]
    file = Path(first.report.path).name
    parameters = {"file": file, "library": _some(names), "name": subject, "count": str(len(names))}
    error = f"ImportError: {names[0]}: cannot open shared object file: No such file or directory"
    severity: Severity = "warning" if all(optional) else "error"
    fix = _fix(examined, subject, rows, libraries)
    return Finding(
        "missing-library",
        severity,
        subject,
        tuple(dict.fromkeys(evidence)),
        error,
        fix,
        parameters,
    )


def missing_library(examined: Examined) -> Iterator[Finding]:
    """Libraries that a Python module or a torch extension needs and that nothing leads to."""
    environment = examined.environment
    if environment is None:
        return
    loader = _Loader(environment)
    groups: dict[str, list[Missing]] = {}
    done: set[str] = set()
    for report in environment.binaries:
        if report.kind == "elf" and (report.torch_extension or _is_module(report)):
            for row in _missing_of(report, loader, examined, done):
                groups.setdefault(owner_name(environment, row.report), []).append(row)
    for subject, missing in groups.items():
        wanted = [
            row for row in missing if not _is_replaceable(examined.catalog.library(row.library), subject)
        ]
        rows = _without_alternatives(wanted, environment)
        if rows:
            yield _finding(examined, loader, subject, rows)
