"""What a build left behind: a wheel, or of a plain CMake project the tree that it installed."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

from bringup.binaries.report import BinaryReport, Unreadable, scan_file
from bringup.errors import BringupError
from bringup.facts.environment_python import PythonFacts
from bringup.steps.building.project import BuildProject
from bringup.steps.building.runner import Workshop

_MODULE = re.compile(r"(?P<name>\w+)\.(?:cpython-\d+t?-[\w-]+|abi3|cp\d+t?-win_\w+)\.(?:so|pyd)")
_LIBRARY = re.compile(r"[\w.+-]+\.(?:so(?:\.[\d.]+)?|dll|pyd)")


def module_name(file: str) -> str | None:
    """ "extension" of "extension.cpython-311-x86_64-linux-gnu.so"; None of other files."""
    match = _MODULE.fullmatch(Path(file).name)
    return match["name"] if match else None


def find_product(project: BuildProject, workshop: Workshop, python: PythonFacts) -> Path:
    """The wheel that came out; of a plain CMake project a wheel of its Python modules, else a folder.

    Raises:
        BringupError: `build-no-product`.
    """
    wheels = sorted(workshop.output.glob("*.whl"))
    if wheels:
        return wheels[-1]
    if project.kind != "cmake":
        raise BringupError("build-no-product", name=project.name)
    if not any(path.is_file() for path in workshop.output.rglob("*")):
        _collect(workshop)
    modules = [path for path in workshop.output.rglob("*") if module_name(path.name)]
    if modules:
        return _make_wheel(project, workshop, python, modules)
    if not any(path.is_file() for path in workshop.output.rglob("*")):
        raise BringupError("build-no-product", name=project.name)
    folder = workshop.root / _stem(project, python)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(workshop.output, folder, symlinks=True)
    return folder


def _collect(workshop: Workshop) -> None:
    """A project without install rules: the libraries and programs of its build folder."""
    for file in sorted(workshop.objects.rglob("*")):
        if not file.is_file() or "CMakeFiles" in file.parts:
            continue
        program = os.access(file, os.X_OK) and file.suffix == ""
        if _LIBRARY.fullmatch(file.name) or file.suffix in (".a", ".exe") or program:
            report = scan_file(file)
            if not isinstance(report, Unreadable):
                shutil.copy2(file, workshop.output / file.name, follow_symlinks=False)


def _platform(python: PythonFacts) -> str:
    return (python.platform or "any").replace("-", "_").replace(".", "_")


def _stem(project: BuildProject, python: PythonFacts) -> str:
    name = canonicalize_name(project.name).replace("-", "_")
    return f"{name}-{project.version or '0'}-{_platform(python)}"


def _make_wheel(project: BuildProject, workshop: Workshop, python: PythonFacts, modules: list[Path]) -> Path:
    """A wheel of bare extension modules (PEP 427)."""
    name = canonicalize_name(project.name).replace("-", "_")
    version = project.version or "0"
    tag = f"{python.abi}-{python.abi}-{_platform(python)}"
    metadata = f"{name}-{version}.dist-info"
    files = {path.name: path.read_bytes() for path in modules}
    files |= {path.name: path.read_bytes() for path in _libraries_beside(workshop, modules)}
    files[f"{metadata}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    files[f"{metadata}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: bringup\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    )
    record = f"{metadata}/RECORD"
    rows = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in files.items()]
    files[record] = "\n".join([*rows, f"{record},,"]).encode() + b"\n"
    wheel = workshop.root / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return wheel


def _libraries_beside(workshop: Workshop, modules: list[Path]) -> Iterator[Path]:
    """Shared libraries of the project that its modules ask for by name."""
    needed: set[str] = set()
    for module in modules:
        report = scan_file(module)
        if isinstance(report, BinaryReport):
            needed.update(report.needed)
    for file in workshop.output.rglob("*"):
        if file.name in needed and file.is_file():
            yield file


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
