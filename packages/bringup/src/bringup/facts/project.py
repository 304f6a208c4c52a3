"""A project folder as text: pins, imports, torch.load calls, CUDA sources. Nothing of it is run."""

from __future__ import annotations

import ast
import codecs
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from bringup.errors import BringupError
from bringup.facts.cuda_choices import ArchitectureChoice, TorchOrigin, architecture_choice, torch_origins
from bringup.facts.instructions import InstallCommand, holds_instructions, install_commands
from bringup.facts.needed_imports import is_of_the_work, modules_of_cmake, modules_of_setup, needed_imports
from bringup.facts.old_cxx import SUFFIXES as CXX_SUFFIXES
from bringup.facts.old_cxx import OldCxx, defines_at_check, old_cxx
from bringup.facts.project_requirements import (
    Link,
    Pin,
    groups_of_setup,
    groups_of_setup_cfg,
    has_conda_form,
    included,
    is_beside_the_project,
    is_conda_file,
    is_for_environments,
    is_recorded,
    is_requirements_file,
    links_of_environment,
    links_of_lines,
    may_be_conda_file,
    name_of_setup,
    name_of_setup_cfg,
    pins_of_dockerfile,
    pins_of_environment,
    pins_of_lines,
    pins_of_setup_cfg,
    read_setup,
    serves_the_project,
)
from bringup.facts.project_tables import (
    Found,
    groups_left_out,
    name_of_pyproject,
    read_pipfile,
    read_pixi,
    read_pyproject,
    read_script,
)

__all__ = ["Link", "Pin", "ProjectFacts", "TorchLoad", "read_project"]

_SKIPPED = {
    ".git",
    "node_modules",
    "__pycache__",
    ".venv",
    "venv",
    "build",
    "dist",
    ".tox",
    "site-packages",
}
_ENVIRONMENT = ("pyvenv.cfg", "conda-meta", "bin/activate", "Scripts/activate.bat")
_CHECKPOINTS = (".pt", ".pth", ".ckpt", ".model", ".bin", ".pkl")
_COMPILED = (".so", ".pyd", ".pyx")
_MOST_FILES = 50_000
_LARGEST_SOURCE = 4 << 20
_LARGEST_NOTEBOOK = 64 << 20  # its pictures lie in it
# A script: it asks whether it is one, or reads its options as it is imported.
_RUNS = re.compile(r"^if *\(?__name__ *== *['\"]__main__['\"]|^\w+ *= *[\w.()]+\.parse_args\(", re.MULTILINE)


@dataclass(frozen=True)
class TorchLoad:
    """A call of torch.load. `weights_only`: "missing", "true", "false" or "unclear" (`**options`)."""

    file: str
    line: int
    text: str
    weights_only: str


@dataclass(frozen=True)
class ProjectFacts:
    """What a project's files say.

    Attributes:
        imports: top-level module → first place that imports it ("file:line").
        imported_names: dotted, as they are imported: "pytorch3d.ops.knn_points".
        needed_imports: of them those that a run cannot do without → first such place.
        own_modules: names of its Python files and of the folders that hold them, at any depth.
        built_modules: names of what its files compile, or hold compiled.
        cuda_sources: .cu files below the folder; `extension_builds`: build files that compile CUDA.
        checkpoints: files that look like saved models.
        links: requirements that no index has. `requires_python`: ranges as the project's files say them.
        unreadable: (file, why). `groups_left_out`: (extra or group of developers, place).
        recorded: files that list what stood on one machine, not what is needed (`is_recorded`).
        origins, architectures: what the files choose of CUDA.
        instructions: what its pages and scripts tell people to install.
        old_cxx: what its C++ and CUDA sources use that torch has no more.
        runtime_builds: Python files that compile CUDA when they are used first.
        distributions: folder → the canonical name under which it installs itself, as its files say.
    """

    root: str
    pins: tuple[Pin, ...]
    imports: dict[str, str]
    torch_loads: tuple[TorchLoad, ...]
    cuda_sources: tuple[str, ...]
    extension_builds: tuple[str, ...]
    checkpoints: tuple[str, ...]
    entry_points: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    links: tuple[Link, ...] = ()
    requires_python: tuple[str, ...] = ()
    imported_names: frozenset[str] = frozenset()
    own_modules: frozenset[str] = frozenset()
    groups_left_out: tuple[tuple[str, str], ...] = ()
    recorded: tuple[str, ...] = ()
    origins: tuple[TorchOrigin, ...] = ()
    architectures: tuple[ArchitectureChoice, ...] = ()
    needed_imports: dict[str, str] = field(default_factory=dict)
    built_modules: frozenset[str] = frozenset()
    instructions: tuple[InstallCommand, ...] = ()
    old_cxx: tuple[OldCxx, ...] = ()
    runtime_builds: tuple[str, ...] = ()
    distributions: dict[str, str] = field(default_factory=dict)

    @property
    def own_distributions(self) -> dict[str, str]:
        """Names under which its folders install themselves → the first such folder; none of tests."""
        found: dict[str, str] = {}
        for folder, name in self.distributions.items():
            if not is_beside_the_project(f"{folder}/setup.py"):
                found.setdefault(name, folder)
        return found

    @property
    def compiling(self) -> tuple[str, ...]:
        """Files that compile CUDA, when they are installed or when they are used first."""
        return self.extension_builds + self.runtime_builds


def _files(root: Path) -> Iterator[Path]:
    count = 0
    for folder, names, files in os.walk(root):
        names[:] = sorted(
            name for name in names if name not in _SKIPPED and not _is_environment(folder, name)
        )
        for file in sorted(files):
            count += 1
            if count > _MOST_FILES:
                return
            yield Path(folder) / file


def _is_environment(folder: str, name: str) -> bool:
    """Whether a folder is an environment of Python's or conda's, whatever it is called."""
    return any(Path(folder, name, mark).exists() for mark in _ENVIRONMENT)


def _torch_names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """(names of the module torch, names of its function load) in one file."""
    modules, functions = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or "torch" for alias in node.names if alias.name == "torch"}
        elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.serialization"):
            functions |= {alias.asname or "load" for alias in node.names if alias.name == "load"}
    return modules, functions


def _weights_only(call: ast.Call) -> str:
    for word in call.keywords:
        if word.arg == "weights_only" and isinstance(word.value, ast.Constant):
            return "true" if word.value.value else "false"
        if word.arg == "weights_only" or word.arg is None:
            return "unclear"
    return "missing"


def _torch_loads(tree: ast.AST, text: str, file: str) -> Iterator[TorchLoad]:
    modules, functions = _torch_names(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        by_module = (
            isinstance(called, ast.Attribute)
            and called.attr == "load"
            and isinstance(called.value, ast.Name)
            and called.value.id in modules
        )
        if by_module or (isinstance(called, ast.Name) and called.id in functions):
            segment = ast.get_source_segment(text, node) or "torch.load(…)"
            yield TorchLoad(file, node.lineno, " ".join(segment.split()), _weights_only(node))


def _compiles_when_used(tree: ast.AST) -> bool:
    """Whether a file calls `load` or `load_inline` of torch.utils.cpp_extension."""
    calls, names = ("load", "load_inline"), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "torch.utils.cpp_extension":
            names |= {alias.asname or alias.name for alias in node.names if alias.name in calls}
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(
        (isinstance(func, ast.Name) and func.id in names)
        or (isinstance(func, ast.Attribute) and func.attr in calls and _is_cpp_extension(func.value))
        for func in called
    )


def _is_cpp_extension(value: ast.expr) -> bool:
    last = value.attr if isinstance(value, ast.Attribute) else value.id if isinstance(value, ast.Name) else ""
    return last == "cpp_extension"


def _imports(tree: ast.AST, file: str) -> Iterator[tuple[str, str]]:
    """(dotted name, place) of all that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, f"{file}:{node.lineno}"
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", f"{file}:{node.lineno}"


def _code_cells(document: Any) -> Iterator[str]:
    cells = document.get("cells") if isinstance(document, dict) else None
    for cell in cells if isinstance(cells, list) else ():
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            source = cell.get("source")
            lines = "".join(map(str, source)).splitlines() if isinstance(source, str | list) else []
            yield "\n".join("" if line.lstrip().startswith(("%", "!", "?")) else line for line in lines)


class _Reading:
    """Collects while the files are walked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.required: set[str] = set()
        self.pins: list[Pin] = []
        self.imports: dict[str, str] = {}
        self.imported_names: set[str] = set()
        self.needed: dict[str, str] = {}
        self.built: set[str] = set()
        self.own: set[str] = set()
        self.loads: list[TorchLoad] = []
        self.cuda: list[str] = []
        self.builds: list[str] = []
        self.checkpoints: list[str] = []
        self.entries: list[str] = []
        self.unreadable: list[tuple[str, str]] = []
        self.links: list[Link] = []
        self.pythons: list[str] = []
        self.groups: list[tuple[str, str]] = []
        self.recorded: list[str] = []
        self.constraints: dict[str, SpecifierSet] = {}
        self.origins: list[TorchOrigin] = []
        self.architectures: list[ArchitectureChoice] = []
        self.commands: list[InstallCommand] = []
        self.old: list[OldCxx] = []
        self.has_at_check = False
        self.runtime: list[str] = []
        self.inline: list[str] = []
        self.distributions: dict[str, str] = {}
        self.other_conda: list[tuple[str, str]] = []
        self.has_conda = False

    def python(self, text: str, file: str) -> None:
        self.own.update(Path(file).with_suffix("").parts)
        tree = ast.parse(text)
        for name, place in _imports(tree, file):
            self.imports.setdefault(name.partition(".")[0], place)
            self.imported_names.add(name)
        self._needed(tree, file)
        if "torch" in text and "load" in text:
            self.loads += _torch_loads(tree, text, file)
        if Path(file).name == "setup.py":
            self._take(read_setup(tree, file))
            self.groups += groups_of_setup(tree, file)
            self._is_called(name_of_setup(tree), file)
            self.built.update(modules_of_setup(tree))
            self._choices(text, file)
            if "CUDAExtension" in text:
                self.builds.append(file)
        elif "cpp_extension" in text and not is_beside_the_project(file) and _compiles_when_used(tree):
            (self.inline if "cuda_sources" in text else self.runtime).append(file)
            choice = architecture_choice(text, file, compiles=True)
            self.architectures += [choice] if choice else []
        if _RUNS.search(text) and Path(file).name != "setup.py" and not is_beside_the_project(file):
            self.entries.append(file)
        script = read_script(text, file) if is_of_the_work(file) else None
        if script is not None:
            self._take(script)

    def _needed(self, tree: ast.AST, file: str, cell: int | None = None) -> None:
        for module, line in needed_imports(tree) if is_of_the_work(file) else ():
            self.needed.setdefault(module, f"{file}:{cell or line}")

    def notebook(self, text: str, file: str) -> None:
        """What its code cells import, the cell's number as the place; magics and shell lines left out."""
        for number, code in enumerate(_code_cells(json.loads(text)), 1):
            try:
                tree = ast.parse(code)
            except (SyntaxError, ValueError, MemoryError, RecursionError):
                continue  # Of another language, or half-written: the other cells still count.
            for name, _ in _imports(tree, file):
                self.imports.setdefault(name.partition(".")[0], f"{file}:{number}")
                self.imported_names.add(name)
            if "pip install" not in text:  # One that installs for itself says so in lines for the shell.
                self._needed(tree, file, number)

    def text(self, text: str, file: str) -> None:
        name = Path(file).name.lower()
        if is_requirements_file(file):
            if serves_the_project(file):
                self.requirements(text, file)
            return
        if may_be_conda_file(file) and not is_conda_file(file):
            if has_conda_form(text):
                self.other_conda.append((text, file))
            return
        self._choices(text, file)
        if name == "pyproject.toml":
            self._is_called(name_of_pyproject(text), file)
            self._take(read_pyproject(text, file, self._read))
            self.groups += groups_left_out(text, file)
        elif name == "pixi.toml":
            self._take(read_pixi(text, file))
        elif name == "pipfile":
            self._take(read_pipfile(text, file))
        elif name == "setup.cfg":
            pins, pythons = pins_of_setup_cfg(text, file)
            self.groups += groups_of_setup_cfg(text, file)
            self._is_called(name_of_setup_cfg(text), file)
            self.pins += pins
            self.pythons += pythons
        elif is_conda_file(file) and not is_beside_the_project(file):
            self.has_conda |= is_for_environments(file)
            self._environment(text, file)
        elif name.startswith("dockerfile") or name.endswith(".dockerfile"):
            self.pins += pins_of_dockerfile(text, file)
        elif name == "cmakelists.txt":
            self.built |= modules_of_cmake(text)
            self.builds += [file] if re.search(r"\bCUDA\b", text) else []

    def _environment(self, text: str, file: str) -> None:
        self.pins += pins_of_environment(text, file)
        self.links += links_of_environment(text, file)
        self.recorded += [file] if is_recorded(text) else []
        self._included(re.sub(r"(?m)^\s*-\s+(?=-r|--req)", "", text), file)

    def named_otherwise(self) -> None:
        """conda's files of other names; beside an `environment.yml` they are for something else."""
        for text, file in () if self.has_conda else self.other_conda:
            try:
                self._choices(text, file)
                self._environment(text, file)
            except (ValueError, RecursionError) as error:  # noqa: PERF203 — one file must not hide the others
                self.unreadable.append((file, f"{type(error).__name__}: {error}"))

    def cxx(self, text: str, file: str) -> None:
        self.has_at_check |= defines_at_check(text)
        self.old += old_cxx(text, file)

    def old_cxx(self) -> Iterator[OldCxx]:
        """What no header of the project brings back."""
        return (row for row in self.old if not (self.has_at_check and row.kind == "at-check"))

    def instructions(self, text: str, file: str) -> None:
        self.commands += install_commands(text, file)

    def _choices(self, text: str, file: str) -> None:
        if not is_beside_the_project(file):
            self.origins += torch_origins(text, file)
            choice = architecture_choice(text, file)
            self.architectures += [choice] if choice else []

    def _is_called(self, name: str | None, file: str) -> None:
        if name:
            self.distributions.setdefault(PurePosixPath(file).parent.as_posix(), canonicalize_name(name))

    def _take(self, found: Found) -> None:
        pins, links, pythons = found
        self.pins += pins
        self.links += links
        self.pythons += pythons

    def _read(self, file: str) -> str | None:
        """Another file below the project's folder; None where it is none."""
        path = self.root / file
        inside = path.is_file() and path.resolve().is_relative_to(self.root.resolve())
        return decode(path.read_bytes()) if inside else None

    def requirements(self, text: str, file: str) -> None:
        """A requirements file, and those that it names with `-r`."""
        if file in self.required:
            return
        self.required.add(file)
        self.pins += pins_of_lines(text, file)
        self.links += links_of_lines(text, file)
        self._choices(text, file)
        self._included(text, file)

    def _included(self, text: str, file: str) -> None:
        for other in included(text, file):
            if (listed := self._read(other)) is not None:
                self.requirements(listed, other)
        for other in included(text, file, constraints=True):
            for pin in pins_of_lines(self._read(other) or "", other):
                key = canonicalize_name(pin.requirement.name)
                self.constraints[key] = self.constraints.get(key, SpecifierSet()) & pin.requirement.specifier

    def constrained(self) -> Iterator[Pin]:
        """The pins, each within what constraint files say of it."""
        for pin in self.pins:
            limit = self.constraints.get(canonicalize_name(pin.requirement.name))
            pin.requirement.specifier &= limit or SpecifierSet()
            yield pin


def decode(raw: bytes) -> str:
    """Text; PowerShell writes `pip freeze > requirements.txt` as UTF-16 with a mark at its beginning."""
    utf_16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return raw.decode("utf-16" if utf_16 else "utf-8-sig", errors="replace").replace("\r\n", "\n")


def _wanted(file: str) -> bool:
    lowered = PurePosixPath(file).name.lower()
    return (
        is_requirements_file(file)
        or is_conda_file(file)
        or may_be_conda_file(file)
        or lowered.startswith(("dockerfile", "environment"))
        or lowered.endswith(".dockerfile")
        or lowered
        in (
            "pyproject.toml",
            "pixi.toml",
            "pipfile",
            "setup.cfg",
            "cmakelists.txt",
        )
    )


def _reader(reading: _Reading, file: str) -> Callable[[str, str], None] | None:
    """What reads a file of this name."""
    by_suffix = {".py": reading.python, ".ipynb": reading.notebook}
    by_suffix |= dict.fromkeys(CXX_SUFFIXES, reading.cxx)
    if take := by_suffix.get(PurePosixPath(file).suffix.lower()):
        return take
    if holds_instructions(file):
        return reading.instructions
    return reading.text if _wanted(file) else None


def read_project(root: Path) -> ProjectFacts:
    """Read a project folder.

    Raises:
        BringupError: `no-project`: there is no such folder.
    """
    if not root.is_dir():
        raise BringupError("no-project", exit_code=2, path=root)
    reading = _Reading(root)
    for path in _files(root):
        file = path.relative_to(root).as_posix()
        suffix = path.suffix.lower()
        if suffix in (".cu", ".cuh"):
            reading.cuda.append(file)
        if suffix in _COMPILED:
            reading.built.add(path.name.partition(".")[0])
        elif suffix in _CHECKPOINTS:
            reading.checkpoints.append(file)
        elif (take := _reader(reading, file)) is not None:
            try:
                facts = path.stat()
                largest = _LARGEST_NOTEBOOK if suffix == ".ipynb" else _LARGEST_SOURCE
                if facts.st_size > largest or not stat.S_ISREG(facts.st_mode):
                    continue  # a pipe would be waited for
                take(decode(path.read_bytes()), file)
            # Nesting without end is a MemoryError of Python's parser, and a RecursionError of the others.
            except (OSError, SyntaxError, ValueError, MemoryError, RecursionError) as error:
                reading.unreadable.append((file, f"{type(error).__name__}: {error}".removesuffix(": ")))
    reading.named_otherwise()
    return ProjectFacts(
        str(root),
        tuple(reading.constrained()),
        reading.imports,
        tuple(reading.loads),
        tuple(reading.cuda),
        tuple(reading.builds),
        tuple(reading.checkpoints),
        tuple(sorted(reading.entries, key=lambda file: file.count("/"))),
        tuple(reading.unreadable),
        tuple(reading.links),
        tuple(reading.pythons),
        frozenset(reading.imported_names),
        frozenset(reading.own),
        tuple(reading.groups),
        tuple(reading.recorded),
        tuple(reading.origins),
        tuple(reading.architectures),
        reading.needed,
        frozenset(reading.built),
        tuple(reading.commands),
        tuple(reading.old_cxx()),
        # Without a CUDA source anywhere what is compiled is C++.
        tuple(sorted(reading.inline + (reading.runtime if reading.cuda else []))),
        reading.distributions,
    )
