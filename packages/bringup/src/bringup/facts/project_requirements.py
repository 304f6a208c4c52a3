"""What a project's files require: requirements, pyproject.toml, environment.yml, setup files, Dockerfile.

Sources: pip's requirements file format, PEP 508, PEP 621, Poetry's and conda's documentation.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_IS_FOLDER = re.compile(r"(?:[\w.-]+/)+[\w.-]+/?|\.")
_PIP_INSTALL = re.compile(r"pip3?\s+install\s+(.+)")
_FROM_PYTORCH = re.compile(
    r"^FROM\s+(?:--\S+\s+)*(?:\S+/)?pytorch/pytorch:(\d+\.\d+(?:\.\d+)?)", re.IGNORECASE
)
_INCLUDE = re.compile(r"^\s*(?:-r|--requirement)[ =]\s*(\S+)", re.MULTILINE)
# Groups and files for those who work on the project, or for another kind of machine.
_NOT_FOR_USERS = {
    "dev", "develop", "development", "test", "tests", "testing", "doc", "docs", "documentation", "lint",
    "style", "quality", "format", "formatting", "typing", "build", "ci", "benchmark", "all", "full",
    "cpu", "mac", "macos", "rocm", "windows",
}  # fmt: skip
_CONDA = re.compile(r"\s*-\s*['\"]?(?:[\w./-]+::)?([A-Za-z0-9_.-]+)\s*([=<>!~][^'\"#\s]*)?['\"]?\s*(?:#.*)?")


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


def _requirement(text: str) -> Requirement | None:
    cleaned = text.split(" #")[0].split(" --")[0].strip().rstrip("\\").strip()
    if not cleaned or cleaned.startswith(("#", "-")):
        return None
    try:
        requirement = Requirement(cleaned)
    except InvalidRequirement:
        return None
    # `name @ https://…` is a link: an index may hold something else under that name.
    return None if requirement.url else requirement


def serves_the_project(file: str) -> bool:
    """Whether a requirements file is for those who run the project: not `requirements-dev.txt`, not docs/."""
    path = PurePosixPath(file)
    words = set(re.split(r"[^a-z0-9]+", path.stem.lower()))
    return not words & _NOT_FOR_USERS and not is_beside_the_project(file)


def is_beside_the_project(file: str) -> bool:
    """Whether a file is for documentation, tests or a build service: below docs/, tests/, .ci/, .github/."""
    folders = PurePosixPath(file).parts[:-1]
    return any(name.startswith(".") or name in ("doc", "docs", "test", "tests") for name in folders)


def included(text: str, file: str) -> Iterator[str]:
    """Files that a requirements file names with `-r`, from the project's folder."""
    for match in _INCLUDE.finditer(text):
        other = os.path.normpath(PurePosixPath(file).parent / match[1]).replace(os.sep, "/")
        if not other.startswith(("..", "/")):
            yield other


def pins_of_lines(text: str, file: str) -> Iterator[Pin]:
    """A requirements file."""
    for number, line in enumerate(text.splitlines(), 1):
        requirement = _requirement(line)
        if requirement:
            yield Pin(requirement, file, number)


def links_of_lines(text: str, file: str) -> Iterator[Link]:
    """What `requirements.txt` and the pip list of an `environment.yml` install from elsewhere."""
    for number, line in enumerate(text.splitlines(), 1):
        row = line.split(" #")[0].strip().removeprefix("- ").strip().strip("'\"")
        row = re.sub(r"^(-e|--editable)[ =]+", "", row)
        if "@" in row and not row.startswith(("git+", "http", ".")):
            row = row.partition("@")[2].strip()  # name @ git+https://…
        if row.startswith(("git+", "http://", "https://", "./", "../")) or _IS_FOLDER.fullmatch(row):
            yield Link(row, file, number)


def read_pyproject(text: str, file: str) -> tuple[list[Pin], list[Link], list[str]]:
    """(pins, links, Python ranges) of `[project]` or Poetry's table; extras for developers left out."""
    document = tomllib.loads(text)
    project = _table(document, "project")
    poetry = _table(document, "tool", "poetry")
    own = {canonicalize_name(str(table["name"])) for table in (project, poetry) if "name" in table}
    listed = [str(item) for item in project.get("dependencies") or ()]
    for group, items in _table(project, "optional-dependencies").items():
        if not set(re.split(r"[^a-z0-9]+", group.lower())) & _NOT_FOR_USERS:
            listed += map(str, items)
    rows = text.splitlines()
    pins, links = [], []
    for item in listed:
        requirement = _requirement(item)
        if requirement and canonicalize_name(requirement.name) not in own:
            pins.append(Pin(requirement, file, _line(rows, item)))
        links += [Link(link.text, file, _line(rows, item)) for link in links_of_lines(item, file)]
    pythons = [str(project["requires-python"])] if "requires-python" in project else []
    for name, value in _table(poetry, "dependencies").items():
        address = value.get("git") if isinstance(value, dict) else None
        if address:
            links.append(Link(f"git+{address}", file, _line(rows, name)))
            continue
        requirement = _poetry_requirement(name, value)
        if requirement is not None and name.lower() == "python":
            pythons.append(str(requirement.specifier))
        elif requirement is not None:
            pins.append(Pin(requirement, file, _line(rows, name)))
    return pins, links, pythons


def _table(document: dict[str, Any], *path: str) -> dict[str, Any]:
    for key in path:
        found = document.get(key)
        document = found if isinstance(found, dict) else {}
    return document


def _line(rows: list[str], text: str) -> int:
    return next((number for number, row in enumerate(rows, 1) if text in row), 1)


def _poetry_requirement(name: str, value: object) -> Requirement | None:
    """Poetry's `^1.2` and `~1.2` in the terms of PEP 440; optional ones are extras and left out."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        if value.get("optional"):
            return None
        value = value.get("version", "*")
    if not isinstance(value, str):
        return None
    parts = (_poetry_bound(part.strip()) for part in value.split(","))
    try:
        return Requirement(f"{name}{','.join(part for part in parts if part)}")
    except InvalidRequirement:
        return None


def _poetry_bound(text: str) -> str:
    match = re.fullmatch(r"([\^~])\s*(\d+(?:\.\d+)*)(.*)", text)
    if match:
        numbers = [int(part) for part in match[2].split(".")]
        # The first number that is not 0 may not change (^), or the second one (~).
        fixed = next((place for place, number in enumerate(numbers) if number), len(numbers) - 1)
        fixed = fixed if match[1] == "^" else min(1, len(numbers) - 1)
        after = [*numbers[:fixed], numbers[fixed] + 1]
        return f">={match[2]}{match[3]},<{'.'.join(map(str, after))}"
    if text in ("", "*"):
        return ""
    return f"=={text}" if text[0].isdigit() else text


def pins_of_environment(text: str, file: str) -> Iterator[Pin]:
    """conda's environment.yml, line by line: `- pytorch=2.0.1`, `- pip:` lists; channels are none.

    An exported line names its build: `numpy=1.26=py311h64a7726_0` is a Python package, `icu=70.1=h27087fc_0`
    a library that comes in the wheels.
    """
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"[A-Za-z]\w*\s*:", line):
            inside = line.startswith("dependencies")
        item = _CONDA.fullmatch(line) if inside else None
        if not item:
            continue
        name = "torch" if item[1] == "pytorch" else item[1]
        version = item[2] or ""
        if re.match(r"=(?!=)", version):
            version, _, build = version[1:].partition("=")
            if build and not build.startswith("py") and name not in ("python", "torch"):
                continue
            # conda's `=3.9` is pip's `==3.9.*`.
            version += ".*" if version.count(".") == 1 and not build and "*" not in version else ""
            version = f"=={version}" if version else ""
        requirement = _requirement(f"{name}{version}")
        if requirement:
            yield Pin(requirement, file, number)


def pins_of_dockerfile(text: str, file: str) -> Iterator[Pin]:
    """`pip install NAME==VERSION`, and the torch of a `pytorch/pytorch` base."""
    joined = text.replace("\\\n", "  ")
    for number, line in enumerate(joined.splitlines(), 1):
        base = _FROM_PYTORCH.match(line.strip())
        if base:
            yield Pin(Requirement(f"torch=={base[1]}"), file, number)
        for match in _PIP_INSTALL.finditer(line):
            for word in match[1].split("&&")[0].split():
                requirement = _requirement(word.strip("'\""))
                if requirement and requirement.specifier:
                    yield Pin(requirement, file, number)


def pins_of_setup(tree: ast.AST, file: str) -> Iterator[Pin]:
    """`install_requires` of a setup.py, written out or by the name of a list of its own."""
    lists = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.keyword) and node.arg == "install_requires"):
            continue
        value = lists.get(node.value.id) if isinstance(node.value, ast.Name) else node.value
        for item in value.elts if isinstance(value, ast.List | ast.Tuple) else ():
            if isinstance(item, ast.Constant) and isinstance(item.value, str):
                requirement = _requirement(item.value)
                if requirement:
                    yield Pin(requirement, file, item.lineno)


def pins_of_setup_cfg(text: str, file: str) -> tuple[list[Pin], list[str]]:
    """(pins, Python ranges) of `[options]` in a setup.cfg."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise ValueError(str(error)) from error
    rows = text.splitlines()
    listed = parser.get("options", "install_requires", fallback="").splitlines()
    found = ((item, _requirement(item)) for item in listed if item.strip())
    pins = [Pin(requirement, file, _line(rows, item)) for item, requirement in found if requirement]
    python = parser.get("options", "python_requires", fallback="")
    return pins, [python] if python else []
