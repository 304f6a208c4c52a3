"""What a project's files choose of CUDA: where torch comes from, and for which architectures is compiled.

Sources: pip's requirements file format; Poetry's «Repositories» and uv's «Package indexes»; conda's packages
`pytorch-cuda`, `cudatoolkit` and `cuda-version`; nvcc's `-gencode` and `-arch`; CMake's CUDA_ARCHITECTURES;
torch/utils/cpp_extension.py (TORCH_CUDA_ARCH_LIST).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from bringup.binaries.architectures import ArchitectureList, parse_arch_list
from bringup.facts.indexes import redact
from bringup.facts.project_requirements import is_conda_file, line_of, may_be_conda_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class TorchOrigin:
    """An index, a page of wheels or a conda package that decides for which CUDA torch was built.

    Attributes:
        text: as it is written, without credentials.
        cuda: "11.8".
        release: the torch release that a page of extensions is for ("1.13.0"); None of all others.
        only: nothing else offers torch, so it is taken from there whatever newer releases there are.
    """

    file: str
    line: int
    text: str
    cuda: str
    release: str | None = None
    only: bool = True


@dataclass(frozen=True)
class ArchitectureChoice:
    """All architectures that one build file names itself. `line`, `text`: the first place that does so."""

    file: str
    line: int
    text: str
    architectures: ArchitectureList


_LABEL = re.compile(r"(?<![a-z0-9])cu(\d{1,2})(\d)(?!\d)")
_OF_RELEASE = re.compile(r"torch-(\d+\.\d+\.\d+)")
_OPTION = re.compile(
    r"(?<![\w-])(?:(--index-url|-i)|(--extra-index-url)|(--find-links|-f))[ \t=]+[\"']?(\w+://[^\s\"'\\;]+)"
)
_FETCHED = re.compile(r"\b(?:curl|wget)\b")  # their `-f` and `-i` are something else
_CONDA_CUDA = re.compile(r"(?<![\w-])(pytorch-cuda|cudatoolkit|cuda-version)[\"']?[ \t=][ \t\"'=]*(\d+\.\d+)")
_TELLS_CUDA = re.compile(r"pixi\.toml|pyproject\.toml|dockerfile.*|.*\.dockerfile")
_BUILD_FILE = re.compile(r"setup\.py|pyproject\.toml|cmakelists\.txt|dockerfile.*|.*\.dockerfile")
# A whole line, or what follows a space: `#egg=` of an address stays.
_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\n]*", re.MULTILINE)

_NAMED_LIST = re.compile(
    r"(?<![\w${])(?:-D)?(TORCH_CUDA_ARCH_LIST|(?:CMAKE_)?CUDA_ARCHITECTURES)[\"']?\]?(?::STRING)?"
    r"[ \t]*(?:[=:,](?!=)[ \t]*|(?<=[ \t]))"
    r"(?:\\?\"([^\"\n\\]*)|'([^'\n]*)|([^\s\"',)&\\]+(?:[ \t]+\d[\w.+-]*)*))"
)
_NO_LIST = ("", "off", "none")
_GENCODE = re.compile(
    r"arch=compute_\d+[af]?,\s*code=\\?[\"']?\[?\\?[\"']?((?:sm|compute)_\d+[af]?(?:,\s*(?:sm|compute)_\d+[af]?)*)"
)
_ARCH = re.compile(r"(?<![\w-])(?:-arch|--gpu-architecture)[=\s\"',]+(?:sm|compute)_(\d+[af]?)")
# Computed when it is built: `arch=compute_{major}{minor}`, `-arch=native`, CMake's `all`.
_COMPUTED = re.compile(
    r"arch=compute_(?!\d)|code=\\?[\"']?\[?(?:sm|compute)_(?!\d)|(?<![\w-])-arch[=\s]+(?:native|all)|cuda_select_nvcc"
)


def _without_comments(text: str) -> str:
    """The same lines; what is no comment stays where it is."""
    return _COMMENT.sub("", text)


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _label(address: str) -> str | None:
    """The CUDA that an address names: "11.8" of `…/whl/cu118`; a host's name tells nothing."""
    path = address.partition("://")[2].partition("/")[2]
    found = _LABEL.search(unquote(path.partition("?")[0]))
    return f"{found[1]}.{found[2]}" if found else None


def _shown(address: str) -> str:
    """Without user, password and query, in which tokens are given too."""
    scheme, _, rest = redact(address).partition("://")
    user, _, place = rest.partition("?")[0].partition("#")[0].rpartition("@")  # a password with a slash, too
    return f"{scheme}://{'***@' if user else ''}{place}"


def torch_origins(text: str, file: str) -> Iterator[TorchOrigin]:
    """What a requirements file, environment.yml, Dockerfile, pyproject.toml or pixi.toml says of them."""
    name = PurePosixPath(file).name.lower()
    plain = _without_comments(text)
    if name == "pyproject.toml":
        yield from _of_pyproject(tomllib.loads(text), text.splitlines(), file)
    elif not name.endswith((".py", ".toml")) and name != "cmakelists.txt":
        yield from _of_options(plain, file)
    if _TELLS_CUDA.fullmatch(name) or is_conda_file(file) or may_be_conda_file(file):
        of_torch = re.search(r"\b(?:py)?torch\b", plain) is not None
        for match in _CONDA_CUDA.finditer(plain):
            if of_torch or match[1] == "pytorch-cuda":
                written = f"{match[1]}={match[2]}"
                yield TorchOrigin(file, _line(plain, match.start()), written, match[2])


def _of_options(text: str, file: str) -> Iterator[TorchOrigin]:
    """pip's options, wherever they stand on a line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not _FETCHED.search(line):
            found += [(number, match) for match in _OPTION.finditer(line)]
    others = any(_label(match[4]) is None and not match[3] for _, match in found)
    for number, match in found:
        cuda, release = _label(match[4]), _OF_RELEASE.search(unquote(match[4]))
        if cuda:
            only = match[1] is not None and not others
            yield TorchOrigin(file, number, _shown(match[4]), cuda, release[1] if release else None, only)


def _of_pyproject(document: dict[str, Any], rows: list[str], file: str) -> Iterator[TorchOrigin]:
    """`[[tool.uv.index]]` and `[[tool.poetry.source]]`, as far as torch is looked up there."""
    tool = _table(document.get("tool"))
    uv, poetry = _table(tool.get("uv")), _table(tool.get("poetry"))
    groups = [_table(group) for group in _table(poetry.get("group")).values()]
    tables = [_table(table.get("dependencies")) for table in (poetry, *groups)]
    asked = [_table(uv.get("sources")).get("torch"), *(table.get("torch") for table in tables)]
    chosen = [row.get(key) for value in asked for row in _tables(value) for key in ("index", "source")]
    # uv stops at the first index that has a package; Poetry takes the newest of all (before 2.0 PyPI too).
    for sources, takes_first in ((_tables(uv.get("index")), True), (_tables(poetry.get("source")), False)):
        for row in sources:
            address, is_named = str(row.get("url")), "name" in row and row["name"] in chosen
            cuda, only = _label(address), is_named or takes_first
            if cuda and (is_named or not _is_held_back(row)):
                yield TorchOrigin(file, line_of(rows, address), _shown(address), cuda, None, only)


def _is_held_back(source: dict[str, Any]) -> bool:
    """Asked only for packages that name it, or that nobody else has."""
    return source.get("explicit") is True or source.get("priority") in ("explicit", "supplemental")


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> list[dict[str, Any]]:
    """A table, or the tables of a list."""
    return [row for row in (value if isinstance(value, list) else [value]) if isinstance(row, dict)]


def architecture_choice(text: str, file: str, *, compiles: bool = False) -> ArchitectureChoice | None:
    """The architectures that a setup.py, CMakeLists.txt, pyproject.toml or Dockerfile names.

    Args:
        compiles: the file, whatever its name, compiles when it is used.

    None where it names none, or computes some: what is built is then not known from the text.
    """
    if not compiles and not _BUILD_FILE.fullmatch(PurePosixPath(file).name.lower()):
        return None
    plain = _without_comments(text)
    try:
        found = sorted(_lists(plain), key=lambda row: row[0])
    except ValueError:
        return None
    if not found or _COMPUTED.search(plain):
        return None
    place, written, _ = found[0]
    both = _united(row for _, _, row in found)
    return ArchitectureChoice(file, _line(plain, place), written, both)


def _lists(text: str) -> Iterator[tuple[int, str, ArchitectureList]]:
    """(place, as written, what it stands for) of each list.

    Raises:
        ValueError: one of them is no list of architectures.
    """
    for match in _NAMED_LIST.finditer(text):
        group = next(number for number in (2, 3, 4) if match[number] is not None)
        written = match[group].strip()
        # `ENV X=${X}` hands on what an ARG says.
        if written.lower() not in _NO_LIST and written.strip("${}") != match[1]:
            yield match.start(group), match[group], parse_arch_list(match[group])
    for match in _GENCODE.finditer(text):
        yield match.start(), match[0], parse_arch_list(match[1])
    for match in _ARCH.finditer(text):
        # Short for machine code and PTX of the same architecture; of `compute_` for the PTX alone.
        kinds = f"compute_{match[1]}" if "compute_" in match[0] else f"sm_{match[1]},compute_{match[1]}"
        yield match.start(), match[0], parse_arch_list(kinds)


def _united(lists: Iterable[ArchitectureList]) -> ArchitectureList:
    rows = list(lists)
    code = {item for row in rows for item in row.machine_code}
    return ArchitectureList(tuple(sorted(code)), tuple(sorted({item for row in rows for item in row.ptx})))
