"""What kind of project a source folder is, and what its build needs. Its files are read, never run.

Sources: PEP 517 and 518 (`[build-system]`), PEP 621 (`[project]`), CMake's command language.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from bringup.errors import BringupError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = Literal["setuptools", "scikit-build-core", "python", "cmake"]

# What pip takes for a project that does not say (PEP 518).
_LEGACY = ("setuptools>=40.8.0", "wheel")
_SKIPPED = {".git", ".hg", "build", "dist", "__pycache__", ".venv", "venv", "node_modules", ".tox"}
_MOST_FILES = 20_000
_LARGEST = 2 << 20
_TORCH = re.compile(
    r"\btorch\.utils\.cpp_extension\b|^\s*(?:import|from)\s+torch\b|find_package\s*\(\s*Torch\b", re.M
)
_TORCH_HEADER = re.compile(r"^\s*#\s*include\s*[<\"](?:torch|ATen|c10)/", re.MULTILINE)
_SOURCES = (".cu", ".cpp", ".cc", ".cxx", ".c", ".cuh", ".h", ".hpp")
_PINS = re.compile(
    r"-gencode|--generate-code|(?:--gpu-architecture|-arch)[=\s'\",]|arch=compute_\d"
    r"|TORCH_CUDA_ARCH_LIST['\"]\s*\]\s*=|CMAKE_CUDA_ARCHITECTURES\s*=\s*\S"
    r"|\bset\s*\(\s*(?:CMAKE_CUDA_ARCHITECTURES|TORCH_CUDA_ARCH_LIST|CUDA_ARCH\w*)\s+[^)\s]"
    r"|\bCUDA_ARCHITECTURES\s+[\"']?(?:\d|OFF|native|all)|cuda_select_nvcc_arch_flags",
    re.IGNORECASE,
)
_ONE_OUTPUT = re.compile(
    r"[\s'\"]--?(?:ptx|cubin|optix-ir)\b|CUDA_(?:PTX|CUBIN|OPTIX)_COMPILATION\s+ON", re.I
)
_LTO = re.compile(r"\b(?:CMAKE_)?INTERPROCEDURAL_OPTIMIZATION(?:_[A-Z]+)?\s+(?:ON|TRUE|YES|1)\b", re.I)
_PROJECT = re.compile(r"^\s*project\s*\(\s*\"?([\w.+-]+)", re.MULTILINE | re.IGNORECASE)
_PROJECT_VERSION = re.compile(r"^\s*project\s*\([^)]*?VERSION\s+([\d.]+)", re.M | re.I | re.S)
_MINIMUM = re.compile(r"cmake_minimum_required\s*\(\s*VERSION\s+(\d+(?:\.\d+)*)", re.IGNORECASE)
_FIND = re.compile(r"find_package\s*\(\s*(pybind11|nanobind)\b", re.IGNORECASE)


@dataclass(frozen=True)
class ArchitecturePin:
    """A line of the sources that names architectures itself."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class BuildProject:
    """A source tree as a build sees it.

    Attributes:
        kind: "setuptools", "scikit-build-core", "python" (another PEP 517 backend) or "cmake" (no Python
            packaging at all).
        backend, backend_path, requires: of `[build-system]`, or what PEP 518 puts in its place.
        uses_torch: it compiles against torch. `uses_cmake`: some CMakeLists.txt takes part.
        cuda_sources: .cu files. `units`: files that are compiled one by one, of any language.
        pins: where it names architectures itself. `one_output`: it calls nvcc for PTX or cubin alone,
            which takes one architecture at a time.
        lto: CMake files that turn link-time optimisation on.
        text: of its build files together, for questions that come up later.
    """

    root: Path
    name: str
    version: str | None
    kind: Kind
    backend: str
    backend_path: tuple[str, ...]
    requires: tuple[str, ...]
    uses_torch: bool
    uses_cmake: bool
    cuda_sources: tuple[str, ...]
    units: int
    pins: tuple[ArchitecturePin, ...]
    one_output: bool
    lto: tuple[str, ...]
    cmake_minimum: Version | None
    cmake_packages: tuple[str, ...]
    text: str


def _files(root: Path) -> Iterator[Path]:
    count = 0
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _SKIPPED and not name.endswith(".egg-info"))
        for file in sorted(files):
            count += 1
            if count > _MOST_FILES:
                return
            yield Path(folder) / file


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            return ""
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""


def _is_build_file(path: Path, root: Path) -> bool:
    name = path.name.lower()
    if name == "cmakelists.txt" or name.endswith(".cmake"):
        return True
    return path.parent == root and name in ("setup.py", "setup.cfg", "pyproject.toml")


def _without_comment(line: str) -> str:
    return line.split("#", 1)[0]


def _document(root: Path) -> dict[str, Any]:
    path = root / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BringupError("build-pyproject", path=path, text=error) from error


def _setup_name(text: str) -> str | None:
    """`name=` of the call of `setup`, if it is written out."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "setup":
            for word in node.keywords:
                if word.arg == "name" and isinstance(word.value, ast.Constant):
                    return str(word.value.value)
    return None


def _kind(backend: str, document: dict[str, Any], root: Path) -> Kind:
    if (root / "setup.py").is_file() or (root / "setup.cfg").is_file() or "project" in document:
        declared = True
    else:
        declared = "build-system" in document
    if not declared:
        if (root / "CMakeLists.txt").is_file():
            return "cmake"
        raise BringupError("nothing-to-build", exit_code=2, path=root)
    if backend.startswith("scikit_build_core"):
        return "scikit-build-core"
    return "setuptools" if backend.startswith("setuptools") else "python"


def _requirement(text: str, root: Path) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        path = root / "pyproject.toml"
        raise BringupError("build-pyproject", path=path, text=f"{text}: {error}") from error


def _check_submodules(root: Path) -> None:
    """An archive or a plain clone leaves git's submodules empty; the compiler would name a missing header."""
    for path in re.findall(r"^\s*path\s*=\s*(.+?)\s*$", _text(root / ".gitmodules"), re.MULTILINE):
        folder = root / path
        if not folder.is_dir() or not any(folder.iterdir()):
            raise BringupError("build-submodule", exit_code=2, path=root, submodule=path)


def read_build(root: Path) -> BuildProject:
    """Read a source folder.

    Raises:
        BringupError: `no-project`; `nothing-to-build` (neither setup.py, pyproject.toml nor CMakeLists.txt);
            `build-pyproject` (a pyproject.toml that cannot be read); `build-submodule` (an empty one).
    """
    if not root.is_dir():
        raise BringupError("no-project", exit_code=2, path=root)
    document = _document(root)
    _check_submodules(root)
    system = document.get("build-system", {})
    backend = str(system.get("build-backend", "setuptools.build_meta:__legacy__"))
    kind = _kind(backend, document, root)
    files = list(_files(root))
    build_files = {path: _text(path) for path in files if _is_build_file(path, root)}
    cmake = {path: text for path, text in build_files.items() if path.suffix in (".txt", ".cmake")}
    top = _text(root / "CMakeLists.txt")
    found = _PROJECT.search(top)
    named = document.get("project", {}).get("name") or _setup_name(_text(root / "setup.py"))
    version = _PROJECT_VERSION.search(top)
    minimum = _MINIMUM.search(top)
    everything = "\n".join(build_files.values())
    requires = [_requirement(str(item), root) for item in system.get("requires", _LEGACY)]
    return BuildProject(
        root=root,
        name=str(named or (found[1] if found else "") or root.resolve().name),
        version=document.get("project", {}).get("version") or (version[1] if version else None),
        kind=kind,
        backend=backend,
        backend_path=tuple(map(str, system.get("backend-path", ()))),
        requires=tuple(map(str, requires)) if kind != "cmake" else (),
        uses_torch=bool(_TORCH.search(everything))
        or any(row.name == "torch" for row in requires)
        or any(_TORCH_HEADER.search(_text(path)) for path in files if path.suffix in _SOURCES),
        uses_cmake=bool(top),
        cuda_sources=tuple(path.relative_to(root).as_posix() for path in files if path.suffix == ".cu"),
        units=sum(path.suffix in (".cu", ".cpp", ".cc", ".cxx", ".c") for path in files),
        pins=tuple(_pins(build_files, root)),
        one_output=bool(_ONE_OUTPUT.search(everything)),
        lto=tuple(path.relative_to(root).as_posix() for path, text in cmake.items() if _LTO.search(text)),
        cmake_minimum=Version(minimum[1]) if minimum else None,
        cmake_packages=tuple(dict.fromkeys(name.lower() for name in _FIND.findall(everything))),
        text=everything,
    )


def _pins(build_files: dict[Path, str], root: Path) -> Iterator[ArchitecturePin]:
    for path, text in build_files.items():
        for number, line in enumerate(text.splitlines(), 1):
            code = _without_comment(line)
            if _PINS.search(code):
                yield ArchitecturePin(path.relative_to(root).as_posix(), number, code.strip()[:160])


def without_lto(text: str) -> str:
    """A CMake file with its link-time optimisation turned off."""
    return _LTO.sub(lambda match: re.sub(r"\S+$", "OFF", match[0]), text)
