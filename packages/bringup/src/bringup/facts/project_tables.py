"""What TOML files of a project require: pyproject.toml (PEP 621, PEP 735, Poetry, uv, pixi), pixi.toml and
Pipfile.

Sources: PEP 508, PEP 621, PEP 735, setuptools' «dynamic metadata», Poetry's, uv's, pixi's and pipenv's
documentation.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from bringup.facts.conda_names import pip_name
from bringup.facts.project_requirements import (
    Link,
    Pin,
    is_for_users,
    line_of,
    links_of_lines,
    pins_of_lines,
    read_requirement,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SCRIPT = re.compile(r"(?m)^# /// script[ \t]*$")

Found = tuple[list[Pin], list[Link], list[str]]


def read_pyproject(text: str, file: str, read: Callable[[str], str | None] = lambda _: None) -> Found:
    """(pins, links, Python ranges) of `[project]`, dependency groups, Poetry's and pixi's tables.

    Extras and groups for developers are left out (`groups_left_out` names them).

    Args:
        read: the text of another file of the project, where setuptools is told to take them from there.

    Raises:
        ValueError: it is no TOML, or its lists of requirements are none.
    """
    document = tomllib.loads(text)
    project = _table(document, "project")
    poetry = _table(document, "tool", "poetry")
    own = {canonicalize_name(str(table["name"])) for table in (project, poetry) if "name" in table}
    listed = _texts(project.get("dependencies"), "[project] dependencies")
    for group, items in _table(project, "optional-dependencies").items():
        if is_for_users(group):
            listed += _texts(items, f"[project.optional-dependencies] {group}")
    for group in _table(document, "dependency-groups"):
        if is_for_users(group):
            listed += _group(document, group)
    rows = text.splitlines()
    pins, links = [], []
    elsewhere = _uv_sources(document)
    for item in dict.fromkeys(listed):
        requirement = read_requirement(item)
        name = canonicalize_name(requirement.name) if requirement else ""
        if name in elsewhere and name not in own:
            links.append(Link(elsewhere[name], file, line_of(rows, item)))
        elif requirement and name not in own:
            pins.append(Pin(requirement, file, line_of(rows, item)))
        links += [Link(link.text, file, line_of(rows, item)) for link in links_of_lines(item, file)]
    pythons = [str(project["requires-python"])] if "requires-python" in project else []
    groups = [table for name, table in _table(poetry, "group").items() if is_for_users(name)]
    for table in (poetry, *groups):
        _poetry(_table(table, "dependencies"), (pins, links, pythons), rows, file)
    for other in _dynamic(document):
        listed_there = read(str(PurePosixPath(file).parent / other))
        if listed_there is not None:
            pins += pins_of_lines(listed_there, other)
            links += links_of_lines(listed_there, other)
    _pixi(_table(document, "tool", "pixi"), (pins, links, pythons), rows, file)
    return pins, links, pythons


def read_script(text: str, file: str) -> Found | None:
    """(pins, links, Python ranges) of a script's own block `# /// script` (PEP 723); None where it has none.

    Raises:
        ValueError: the block is no TOML.
    """
    begin = _SCRIPT.search(text)
    if begin is None:
        return None
    below = text[begin.end() :].splitlines()[1:]
    block = list(itertools.takewhile(lambda line: re.match(r"#(?! ///\s*$)(?: |$)", line), below))
    # As many lines above as in the file, so that numbers of lines are the file's.
    above = [""] * (text.count("\n", 0, begin.start()) + 1)
    content = "\n".join((*above, *(re.sub("^# ?", "", line) for line in block)))
    rows, document = content.splitlines(), tomllib.loads(content)
    elsewhere = _uv_sources(document)
    found: Found = ([], [], [])
    for item in _texts(document.get("dependencies"), "dependencies"):
        requirement, line = read_requirement(item), line_of(rows, item)
        name = canonicalize_name(requirement.name) if requirement else ""
        if name in elsewhere:
            found[1].append(Link(elsewhere[name], file, line))
        elif requirement:
            found[0].append(Pin(requirement, file, line))
        found[1].extend(Link(link.text, file, line) for link in links_of_lines(item, file))
    if "requires-python" in document:
        found[2].append(str(document["requires-python"]))
    return found


def name_of_pyproject(text: str) -> str | None:
    """The distribution's name, of `[project]` or Poetry's table."""
    document = tomllib.loads(text)
    tables = (_table(document, "project"), _table(document, "tool", "poetry"))
    return next((str(table["name"]) for table in tables if "name" in table), None)


def read_pixi(text: str, file: str) -> Found:
    """(pins, links, Python ranges) of a pixi.toml."""
    found: Found = ([], [], [])
    _pixi(tomllib.loads(text), found, text.splitlines(), file)
    return found


def read_pipfile(text: str, file: str) -> Found:
    """(pins, links, Python ranges) of pipenv's Pipfile; `[dev-packages]` are for developers."""
    document, rows = tomllib.loads(text), text.splitlines()
    found: Found = ([], [], [])
    _poetry(_table(document, "packages"), found, rows, file)
    requires = _table(document, "requires")
    for key, end in (("python_full_version", ""), ("python_version", ".*")):
        version = str(requires.get(key, ""))
        if re.fullmatch(r"\d+(\.\d+)*", version):
            found[2].append(f"=={version}{end}")
    return found


def groups_left_out(text: str, file: str) -> list[tuple[str, str]]:
    """(name, place) of the extras and groups that are for developers, or for another kind of machine."""
    document, rows = tomllib.loads(text), text.splitlines()
    tables = (
        _table(document, "project", "optional-dependencies"),
        _table(document, "dependency-groups"),
        _table(document, "tool", "poetry", "group"),
    )
    names = dict.fromkeys(name for table in tables for name in table if not is_for_users(name))
    return [(name, f"{file}:{line_of(rows, name)}") for name in names]


def _group(document: dict[str, Any], group: str, inside: tuple[str, ...] = ()) -> Iterator[str]:
    """What a dependency group of PEP 735 lists, those that it includes too; in a circle each once.

    Names are compared as those of distributions are.
    """
    groups = {canonicalize_name(name): items for name, items in _table(document, "dependency-groups").items()}
    name = canonicalize_name(group)
    items = groups.get(name)
    if name in inside or not isinstance(items, list):
        return
    for item in items:
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict) and "include-group" in item:
            yield from _group(document, str(item["include-group"]), (*inside, name))


def _uv_sources(document: dict[str, Any]) -> dict[str, str]:
    """Of `[tool.uv.sources]` what is brought from a repository, an address or a folder."""
    found: dict[str, str] = {}
    for name, value in _table(document, "tool", "uv", "sources").items():
        # Of several with markers the first: uv takes one for each platform.
        address = _address(value[0] if isinstance(value, list) and value else value)
        if address is not None:
            found[canonicalize_name(name)] = address
        elif isinstance(value, dict) and value.get("workspace"):
            found[canonicalize_name(name)] = f"./{name}"
    return found


def _texts(value: object, where: str) -> list[str]:
    """The texts of a list, [] of None.

    Raises:
        ValueError: it is none: the letters of a word are no names of packages.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{where} is no list of texts, but {value!r:.80}")
    return [str(item) for item in value]


def _table(document: dict[str, Any], *path: str) -> dict[str, Any]:
    for key in path:
        found = document.get(key)
        document = found if isinstance(found, dict) else {}
    return document


def _dynamic(document: dict[str, Any]) -> Iterator[str]:
    """Files that `[tool.setuptools.dynamic] dependencies = {file = …}` names."""
    if "dependencies" not in (_table(document, "project").get("dynamic") or ()):
        return
    named = _table(document, "tool", "setuptools", "dynamic", "dependencies").get("file", ())
    yield from [named] if isinstance(named, str) else map(str, named)


def _address(value: object) -> str | None:
    """Where a dependency of Poetry's or pixi's is brought from, where that is no index."""
    if not isinstance(value, dict):
        return None
    if "git" in value:
        return f"git+{value['git']}"
    for key in ("url", "path"):
        if key in value:
            address = str(value[key])
            return address if "/" in address or address == "." else f"./{address}"
    return None


def _poetry(dependencies: dict[str, Any], found: Found, rows: list[str], file: str) -> None:
    pins, links, pythons = found
    for name, value in dependencies.items():
        address = _address(value)
        if address:
            links.append(Link(address, file, line_of(rows, name)))
            continue
        for row in value if isinstance(value, list) else [value]:
            requirement = _poetry_requirement(name, row)
            if requirement is not None and name.lower() == "python":
                pythons.append(str(requirement.specifier))
            elif requirement is not None:
                pins.append(Pin(requirement, file, line_of(rows, name)))


def _poetry_requirement(name: str, value: object) -> Requirement | None:
    """Poetry's `^1.2` and `~1.2` in the terms of PEP 440; optional ones are extras and left out."""
    markers: list[str] = []
    extras: list[str] = []
    if isinstance(value, dict):
        if value.get("optional"):
            return None
        extras = _texts(value.get("extras"), f"extras of {name}")
        markers = [f"({value['markers']})"] if "markers" in value else []
        if "python" in value:
            bounds = (_poetry_bound(part.strip()) for part in str(value["python"]).split(","))
            parts = (
                re.fullmatch(r"([<>=!~]+)\s*([\d.*]+)", part) for bound in bounds for part in bound.split(",")
            )
            markers += [f"python_version {part[1]} '{part[2]}'" for part in parts if part]
        value = value.get("version", "*")
    if not isinstance(value, str):
        return None
    # `>=4,<5 || >=6`: PEP 440 knows no «or». The last alternative is the newest; of Python the first serves.
    alternatives = value.split("||")
    chosen = alternatives[0 if name.lower() == "python" else -1]
    parts_of_it = (_poetry_bound(part.strip()) for part in chosen.split(","))
    condition = f" ; {' and '.join(markers)}" if markers else ""
    try:
        name += f"[{','.join(extras)}]" if extras else ""
        return Requirement(f"{name}{','.join(part for part in parts_of_it if part)}{condition}")
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


def _pixi(document: dict[str, Any], found: Found, rows: list[str], file: str) -> None:
    """conda's packages and the index's, of the default environment and of Linux."""
    pins, links, pythons = found
    tables = [document, *(_table(document, "target", name) for name in ("linux", "linux-64", "unix"))]
    for table in tables:
        for name, value in _table(table, "dependencies").items():
            known = pip_name(name)
            version = value.get("version", "*") if isinstance(value, dict) else value
            if known is None or not isinstance(version, str):
                continue
            requirement = _conda_requirement(known, version)
            if requirement is not None and known == "python":
                pythons.append(str(requirement.specifier))
            elif requirement is not None:
                pins.append(Pin(requirement, file, line_of(rows, name), "conda"))
        _poetry(_table(table, "pypi-dependencies"), (pins, links, []), rows, file)


def _conda_requirement(name: str, version: str) -> Requirement | None:
    text = "" if version in ("", "*") else version
    if text[:1].isdigit():
        text = f"=={text}"
    elif re.match(r"=(?!=)", text):
        text = f"=={text[1:]}" + ("" if text.endswith("*") else ".*")
    try:
        SpecifierSet(text)
        return Requirement(f"{name}{text}")
    except (InvalidRequirement, InvalidSpecifier):
        return Requirement(name)
