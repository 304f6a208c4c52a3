"""A project folder as text: pins, imports, torch.load calls, CUDA sources. Nothing of it is run."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from bringup.errors import BringupError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SKIPPED = {
    ".git",
    "node_modules",
    "__pycache__",
    ".venv",
    "venv",
    "env",
    "build",
    "dist",
    ".tox",
    "site-packages",
}
_CHECKPOINTS = (".pt", ".pth", ".ckpt", ".model", ".bin", ".pkl")
_MOST_FILES = 50_000
_LARGEST_SOURCE = 4 << 20
_IS_FOLDER = re.compile(r"(?:[\w.-]+/)+[\w.-]+/?|\.")
_PIP_INSTALL = re.compile(r"pip3?\s+install\s+(.+)")


@dataclass(frozen=True)
class Pin:
    """A requirement and where it stands."""

    requirement: Requirement
    file: str
    line: int


@dataclass(frozen=True)
class Link:
    """A requirement that is no name on an index: `git+https://…`, `-e .`, `submodules/simple-knn`."""

    text: str
    file: str
    line: int

    @property
    def name(self) -> str:
        """The last part of the address: "torchmcubes" of `git+https://github.com/tatsy/torchmcubes.git@abc`."""
        address = self.text.partition("#")[0].rstrip("/")
        head, _, last = address.rpartition("/")
        return (last if head else address).partition("@")[0].removesuffix(".git")


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
        cuda_sources: .cu files below the folder; `extension_builds`: build files that compile CUDA.
        checkpoints: files that look like saved models.
        links: requirements that no index has. `requires_python`: ranges as the project's files say them.
        unreadable: (file, why).
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


def _files(root: Path) -> Iterator[Path]:
    count = 0
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _SKIPPED)
        for file in sorted(files):
            count += 1
            if count > _MOST_FILES:
                return
            yield Path(folder) / file


def _requirement(text: str) -> Requirement | None:
    cleaned = text.split(" #")[0].split(" --")[0].strip().rstrip("\\").strip()
    if not cleaned or cleaned.startswith(("#", "-")):
        return None
    try:
        return Requirement(cleaned)
    except InvalidRequirement:
        return None


def _pins_of_lines(text: str, file: str) -> Iterator[Pin]:
    for number, line in enumerate(text.splitlines(), 1):
        requirement = _requirement(line)
        if requirement:
            yield Pin(requirement, file, number)


def _links_of_lines(text: str, file: str) -> Iterator[Link]:
    """What `requirements.txt` and the pip list of an `environment.yml` install from elsewhere."""
    for number, line in enumerate(text.splitlines(), 1):
        row = line.split(" #")[0].strip().removeprefix("- ").strip().strip("'\"")
        row = re.sub(r"^(-e|--editable)[ =]+", "", row)
        if "@" in row and not row.startswith(("git+", "http", ".")):
            row = row.partition("@")[2].strip()  # name @ git+https://…
        if row.startswith(("git+", "http://", "https://", "./", "../")) or _IS_FOLDER.fullmatch(row):
            yield Link(row, file, number)


def _pins_of_pyproject(text: str, file: str) -> Iterator[Pin]:
    document = tomllib.loads(text)
    listed: list[Any] = list(document.get("project", {}).get("dependencies", []))
    for texts in document.get("project", {}).get("optional-dependencies", {}).values():
        listed += texts
    for item in listed:
        requirement = _requirement(str(item))
        if requirement:
            line = next((n for n, row in enumerate(text.splitlines(), 1) if str(item) in row), 1)
            yield Pin(requirement, file, line)


def _pins_of_environment(text: str, file: str) -> Iterator[Pin]:
    """conda's environment.yml, line by line: `- pytorch=2.0.1`, `- pip:` lists."""
    for number, line in enumerate(text.splitlines(), 1):
        item = re.fullmatch(r"\s*-\s*['\"]?([A-Za-z0-9_.-]+)\s*([=<>!~][^'\"#\s]*)?['\"]?\s*(?:#.*)?", line)
        if not item:
            continue
        name = "torch" if item[1] == "pytorch" else item[1]
        version = item[2] or ""
        if re.match(r"=(?!=)", version):
            version = "==" + version[1:].split("=")[0]
        requirement = _requirement(f"{name}{version}")
        if requirement:
            yield Pin(requirement, file, number)


def _pins_of_dockerfile(text: str, file: str) -> Iterator[Pin]:
    joined = text.replace("\\\n", "  ")
    for number, line in enumerate(joined.splitlines(), 1):
        for match in _PIP_INSTALL.finditer(line):
            for word in match[1].split("&&")[0].split():
                requirement = _requirement(word.strip("'\""))
                if requirement and requirement.specifier:
                    yield Pin(requirement, file, number)


def _pins_of_setup(tree: ast.AST, file: str) -> Iterator[Pin]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.keyword)
            and node.arg == "install_requires"
            and isinstance(node.value, ast.List)
        ):
            for item in node.value.elts:
                if isinstance(item, ast.Constant) and isinstance(item.value, str):
                    requirement = _requirement(item.value)
                    if requirement:
                        yield Pin(requirement, file, item.lineno)


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


def _imports(tree: ast.AST, file: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], f"{file}:{node.lineno}"
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], f"{file}:{node.lineno}"


class _Reading:
    """Collects while the files are walked."""

    def __init__(self) -> None:
        self.pins: list[Pin] = []
        self.imports: dict[str, str] = {}
        self.loads: list[TorchLoad] = []
        self.cuda: list[str] = []
        self.builds: list[str] = []
        self.checkpoints: list[str] = []
        self.entries: list[str] = []
        self.unreadable: list[tuple[str, str]] = []
        self.links: list[Link] = []
        self.pythons: list[str] = []

    def python(self, text: str, file: str) -> None:
        tree = ast.parse(text)
        for name, place in _imports(tree, file):
            self.imports.setdefault(name, place)
        self.loads += _torch_loads(tree, text, file)
        if Path(file).name == "setup.py":
            self.pins += _pins_of_setup(tree, file)
            if "CUDAExtension" in text:
                self.builds.append(file)
        if re.search(r"^if __name__ == ['\"]__main__['\"]", text, re.MULTILINE):
            self.entries.append(file)

    def text(self, text: str, file: str) -> None:
        name = Path(file).name.lower()
        if re.fullmatch(r"requirements.*\.txt", name):
            self.pins += _pins_of_lines(text, file)
            self.links += _links_of_lines(text, file)
        elif name == "pyproject.toml":
            self.pins += _pins_of_pyproject(text, file)
            wanted = tomllib.loads(text).get("project", {}).get("requires-python")
            self.pythons += [wanted] if isinstance(wanted, str) else []
        elif re.fullmatch(r"environment.*\.ya?ml", name):
            self.pins += _pins_of_environment(text, file)
            self.links += _links_of_lines(text, file)
        elif name.startswith("dockerfile") or name.endswith(".dockerfile"):
            self.pins += _pins_of_dockerfile(text, file)
        elif name == "cmakelists.txt" and re.search(r"\bCUDA\b", text):
            self.builds.append(file)


def _wanted(name: str) -> bool:
    lowered = name.lower()
    return lowered.startswith(("requirements", "dockerfile", "environment")) or lowered in (
        "pyproject.toml",
        "cmakelists.txt",
    )


def read_project(root: Path) -> ProjectFacts:
    """Read a project folder.

    Raises:
        BringupError: `no-project`: there is no such folder.
    """
    if not root.is_dir():
        raise BringupError("no-project", exit_code=2, path=root)
    reading = _Reading()
    for path in _files(root):
        file = path.relative_to(root).as_posix()
        suffix = path.suffix.lower()
        if suffix in (".cu", ".cuh"):
            reading.cuda.append(file)
        elif suffix in _CHECKPOINTS:
            reading.checkpoints.append(file)
        elif suffix == ".py" or _wanted(path.name):
            try:
                if path.stat().st_size > _LARGEST_SOURCE:
                    continue
                text = path.read_text(encoding="utf-8-sig", errors="replace")
                reading.python(text, file) if suffix == ".py" else reading.text(text, file)
            except (OSError, SyntaxError, ValueError, RecursionError) as error:
                reading.unreadable.append((file, f"{type(error).__name__}: {error}"))
    return ProjectFacts(
        str(root),
        tuple(reading.pins),
        reading.imports,
        tuple(reading.loads),
        tuple(reading.cuda),
        tuple(reading.builds),
        tuple(reading.checkpoints),
        tuple(reading.entries),
        tuple(reading.unreadable),
        tuple(reading.links),
        tuple(reading.pythons),
    )
