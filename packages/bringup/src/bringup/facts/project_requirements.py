"""What a project's files require: requirements, environment.yml, setup files, Dockerfile.

Sources: pip's requirements file format, PEP 508, conda's and Docker's documentation.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from bringup.facts.conda_names import pip_name

_IS_FOLDER = re.compile(r"(?:[\w.-]+/)+[\w.-]+/?|\.")
_ADDRESS = ("git+", "hg+", "http://", "https://", "file:", "./", "../")
_WHEEL_ADDRESS = re.compile(r"https?://\S+/([^/\s#;]+\.whl)(?:#\S*)?(?:\s+;\s*(.+))?$")
_OF_TORCH = ("torch", "torchvision", "torchaudio")
_PIP_INSTALL = re.compile(r"pip3?\s+install\s+(.+)")
_FROM_PYTORCH = re.compile(
    r"^FROM\s+(?:--\S+\s+)*(?:\S+/)?pytorch/pytorch:(\d+\.\d+(?:\.\d+)?)", re.IGNORECASE
)
_CONSTRAINTS = re.compile(r"^\s*(?:-c|--constraint)[ =]\s*(\S+)", re.MULTILINE)
_INCLUDE = re.compile(r"^\s*(?:-r|--requirement)[ =]\s*(\S+)", re.MULTILINE)
# Groups and files for those who work on the project, or for another kind of machine.
NOT_FOR_USERS = {
    "dev", "develop", "development", "test", "tests", "testing", "doc", "docs", "documentation", "lint",
    "style", "quality", "format", "formatting", "typing", "build", "ci", "benchmark", "all", "full",
    "cpu", "mac", "macos", "rocm", "windows",
}  # fmt: skip
# Names in a folder `requirements` of what running takes; others there are named with `-r`, or for some alone.
_TO_RUN = {"base", "main", "runtime", "core", "common", "default", "install", "prod", "production"}
_CONDA = re.compile(
    r"\s*-\s*['\"]?(?:(?P<channel>[\w./-]+)::)?(?P<name>[A-Za-z0-9_.-]+)\s*"
    r"(?P<version>[=<>!~][^'\"#\s]*|(?<=\s)\d[\w.*]*)?['\"]?\s*(?:#.*)?"
)
_CONDA_FILE = re.compile(r"(?:environment.*|conda)\.ya?ml")
_FOR_SOME = {"extra", "extras", "optional"}
ENVIRONMENT_FOLDERS = {"env", "envs", "environment", "environments", "conda", "docker", "requirements"}
_FLOW = re.compile(r"(?P<head>dependencies\s*:|\s*-\s*pip\s*:)\s*(?P<list>\[.*)")
_LONGEST_FLOW = 400
_KEY = re.compile(r"([A-Za-z]\w*)\s*:")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_EXACT = re.compile(r"^\s*-\s*[\w.:/-]+={1,2}\d[^=\s]*(=\S+)?\s*$", re.MULTILINE)
_LEAST_BUILDS, _LEAST_EXACT = 10, 40
_CONDA_INSTALL = re.compile(r"(?:conda|mamba)\s+install\s+(.+)")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}|\$(\w+)")
_ASSIGNED = re.compile(r"(\w+)=[\"']?([^\s\"']*)")


@dataclass(frozen=True)
class Pin:
    """A requirement and where it stands.

    Attributes:
        channel: of what conda installs, "conda" where the entry names none; "" of all else.
    """

    requirement: Requirement
    file: str
    line: int
    channel: str = ""


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


def read_requirement(text: str) -> Requirement | None:
    cleaned = text.split(" #")[0].split(" --")[0].strip().rstrip("\\").strip()
    if not cleaned or cleaned.startswith(("#", "-")):
        return None
    if wheel := _wheel_of_torch(cleaned):
        return wheel
    try:
        requirement = Requirement(cleaned)
    except InvalidRequirement:
        return None
    # `name @ https://…` is a link: an index may hold something else under that name.
    return None if requirement.url else requirement


def _wheel_of_torch(text: str) -> Requirement | None:
    """The release of a wheel that an address names, `torch @ https://…/torch-2.0.1%2Bcu118-….whl`.

    torch's own three alone: an index has the same releases; of other names it may hold another's.
    """
    match = _WHEEL_ADDRESS.search(text)
    if match is None:
        return None
    try:
        name, version, _, _ = parse_wheel_filename(unquote(match[1]))
        marker = f" ; {match[2]}" if match[2] else ""
        return Requirement(f"{name}=={version}{marker}") if name in _OF_TORCH else None
    except (InvalidWheelFilename, InvalidRequirement):
        return None


def line_of(rows: list[str], text: str) -> int:
    """Number of the first row that holds a text; 1 where none does."""
    return next((number for number, row in enumerate(rows, 1) if text in row), 1)


def serves_the_project(file: str) -> bool:
    """Whether a requirements file is for those who run the project: not `requirements-dev.txt`, not docs/."""
    path = PurePosixPath(file)
    words = set(re.split(r"[^a-z0-9]+", path.stem.lower()))
    if path.parent.name.lower() == "requirements" and not words & _TO_RUN:
        return path.stem.lower().startswith("requirements") and not words & NOT_FOR_USERS
    return not words & NOT_FOR_USERS and not is_beside_the_project(file)


def is_requirements_file(file: str) -> bool:
    """`requirements….txt`, or a text file in a folder of that name."""
    path = PurePosixPath(file.lower())
    return path.suffix == ".txt" and (
        path.name.startswith("requirements") or path.parent.name == "requirements"
    )


def is_beside_the_project(file: str) -> bool:
    """Whether a file is for documentation, tests or a build service: below docs/, tests/, .ci/, .github/."""
    folders = PurePosixPath(file).parts[:-1]
    return any(name.startswith(".") or name in ("doc", "docs", "test", "tests") for name in folders)


def included(text: str, file: str, constraints: bool = False) -> Iterator[str]:
    """Files that a requirements file names with `-r` (or `-c`), from the project's folder."""
    for match in (_CONSTRAINTS if constraints else _INCLUDE).finditer(text):
        other = os.path.normpath(PurePosixPath(file).parent / match[1]).replace(os.sep, "/")
        if not other.startswith(("..", "/")):
            yield other


def pins_of_lines(text: str, file: str) -> Iterator[Pin]:
    """A requirements file."""
    for number, line in enumerate(text.splitlines(), 1):
        requirement = read_requirement(line)
        if requirement:
            yield Pin(requirement, file, number)


def links_of_lines(text: str, file: str) -> Iterator[Link]:
    """What a requirements file installs from elsewhere."""
    for number, line in enumerate(text.splitlines(), 1):
        row = line.split(" #")[0].split(" ;")[0].strip().removeprefix("- ").strip().strip("'\"")
        row = re.sub(r"^(-e|--editable)[ =]+", "", row)
        if "@" in row and not row.startswith(("git+", "http", ".")):
            row = row.partition("@")[2].strip()  # name @ git+https://…
        if (row.startswith(_ADDRESS) or _IS_FOLDER.fullmatch(row)) and not _wheel_of_torch(row):
            yield Link(row, file, number)


def rows_of_environment(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of an environment.yml; `dependencies: [numpy, {pip: [timm]}]` as a list below its key.

    The lines of such a list have the number of the line where it begins.
    """
    lines = text.splitlines()
    below = 0  # lines that belong to a list already told
    for number, line in enumerate(lines, 1):
        if below:
            below -= 1
            continue
        flow = _FLOW.match(line)
        rest = [flow["list"], *lines[number : number + _LONGEST_FLOW]] if flow else []
        written = "\n".join(_without_comment(row) for row in rest)
        items, end = _flow_items(written)
        if flow is None or not end:
            yield number, line
            continue
        below = written.count("\n", 0, end)
        yield number, flow["head"]
        indent = " " * (len(flow["head"]) - len(flow["head"].lstrip()) + 2)
        for row in _block(items, indent):
            yield number, row


def _without_comment(line: str) -> str:
    return re.sub(r"(?:^|\s)#.*", "", line)


def _flow_items(text: str) -> tuple[list[str], int]:
    """The items of `[a, "b", {pip: [c]}]` as they are written, and where it ends; 0 where it does not."""
    items, depth, quote, begun = [], 0, "", 0
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
            continue
        quote = sign if sign in "'\"" else ""
        depth += (sign in "[{") - (sign in "]}")
        if sign in "[{" and depth == 1:
            begun = place + 1
        elif (sign == "," and depth == 1) or (sign in "]}" and depth == 0):
            items.append(text[begun:place].strip())
            begun = place + 1
        if sign in "]}" and depth == 0:
            return [item for item in items if item], place
    return [], 0


def _block(items: list[str], indent: str) -> Iterator[str]:
    """Items of a list of YAML's, one a line; `{pip: [timm]}` and `pip: [timm]` with their lists below."""
    for item in items:
        inside = re.fullmatch(r"\{?\s*pip\s*:\s*(\[.*\])\s*\}?", item, re.DOTALL)
        yield f"{indent}- {'pip:' if inside else item}"
        if inside:
            yield from _block(_flow_items(inside[1])[0], indent + "  ")


def is_conda_file(file: str) -> bool:
    """Whether a file is conda's by its name: `environment….yml`, `conda.yaml`."""
    return _CONDA_FILE.fullmatch(PurePosixPath(file).name.lower()) is not None


def may_be_conda_file(file: str) -> bool:
    """Whether its text must tell (`has_conda_form`): any YAML file at the top, or in a folder for such files.

    Those for developers, tests or a build service are none of the project's.
    """
    path = PurePosixPath(file.lower())
    words = set(re.split(r"[^a-z0-9]+", path.stem))
    is_for_some = words & (NOT_FOR_USERS | _FOR_SOME) or is_beside_the_project(file)
    return path.suffix in (".yml", ".yaml") and is_for_environments(file) and not is_for_some


def is_for_environments(file: str) -> bool:
    """Whether a file lies at the top, or in a folder such as `env` or `docker`."""
    path = PurePosixPath(file.lower())
    return len(path.parts) == 1 or path.parent.name in ENVIRONMENT_FOLDERS


def has_conda_form(text: str) -> bool:
    """Whether a YAML file lists `dependencies:` and says `channels:` or `name:`, as conda's do."""
    keys = {match[1] for line in text.splitlines() if (match := _KEY.match(line))}
    return "dependencies" in keys and bool(keys & {"channels", "name"})


def is_recorded(text: str) -> bool:
    """Whether an environment.yml is what `conda env export` wrote: all that stood on one machine, each exact.

    Written by hand are builds (`numpy=1.26=py39h474f0d3_0`) of few; `--no-builds` leaves the `prefix`.
    """
    exact = [match[1] for match in _EXACT.finditer(text)]
    builds = sum(build is not None for build in exact)
    return builds >= _LEAST_BUILDS or (len(exact) >= _LEAST_EXACT and "\nprefix:" in text)


def links_of_environment(text: str, file: str) -> Iterator[Link]:
    """What an environment.yml's pip list installs from elsewhere; `nvidia/label/cuda-12.4` is a channel."""
    key = ""
    for number, line in rows_of_environment(text):
        if match := _KEY.match(line):
            key = match[1]
        if key == "dependencies":
            yield from (Link(link.text, file, number) for link in links_of_lines(line, file))


def pins_of_environment(text: str, file: str) -> Iterator[Pin]:
    """conda's environment.yml, line by line: `- pytorch=2.0.1`, `- pip:` lists; channels are none.

    An exported line names its build: `numpy=1.26=py311h64a7726_0` is a Python package, `icu=70.1=h27087fc_0`
    a library that comes in the wheels.

    Raises:
        ValueError: it is a list, as no tool of conda's reads it.
    """
    told = (line.strip() for line in text.splitlines())
    first = next((line for line in told if line and not line.startswith(("#", "%", "---"))), "")
    if first.startswith(("- ", "[")):
        raise ValueError("a list, where conda reads a table: write «dependencies:» above, the list below it")
    inside, by_pip = False, -1
    for number, line in rows_of_environment(text):
        if match := _KEY.match(line):
            inside = match[1] == "dependencies"
        depth = len(line) - len(line.lstrip())
        if re.match(r"\s*-\s*pip\s*:", line):
            by_pip = depth
            continue
        if line.strip() and depth <= by_pip:
            by_pip = -1
        item = _CONDA.fullmatch(line) if inside else None
        requirement = _of_conda(item, by_pip >= 0) if item else None
        if item is None and by_pip >= 0:  # `jax[cuda12]==0.4.35`, `tomli; python_version < "3.11"`
            requirement = read_requirement(line.partition(" #")[0].strip().removeprefix("-").strip(" '\""))
        if requirement:
            yield Pin(requirement, file, number, _channel(item) if item and by_pip < 0 else "")


def _channel(item: re.Match[str]) -> str:
    return item["channel"] or "conda"


def _of_conda(item: re.Match[str], is_pips: bool) -> Requirement | None:
    name = item["name"] if is_pips else pip_name(item["name"])
    if name is None:
        return None
    version = (item["version"] or "").strip()
    if version[:1].isdigit():  # `- scikit-learn 1.3.0`
        version = f"={version}"
    if re.match(r"=(?!=)", version):
        version, _, build = version[1:].partition("=")
        if build and not build.startswith("py") and name not in ("python", "torch"):
            return None
        # conda's `=3.9` is pip's `==3.9.*`.
        version += ".*" if version.count(".") == 1 and not build and "*" not in version else ""
        version = f"=={version}" if version else ""
    return read_requirement(f"{name}{version}")


def pins_of_dockerfile(text: str, file: str) -> Iterator[Pin]:
    """`pip install NAME==VERSION`, `conda install NAME=VERSION`, and the torch of a `pytorch/pytorch` base.

    `$NAME` is what `ARG` and `ENV` say of it in the file.
    """
    variables: dict[str, str] = {}
    for number, row in _instructions(text):
        line = _filled(row, variables)
        set_here = re.match(r"(?:ARG|ENV)\s+(.+)", line, re.IGNORECASE)
        if set_here:
            variables |= dict(_ASSIGNED.findall(set_here[1]))
        base = _FROM_PYTORCH.match(line)
        if base:
            yield Pin(Requirement(f"torch=={base[1]}"), file, number)
        for command in re.split(r"&&|;\s|\n", line):
            by_pip, by_conda = _PIP_INSTALL.search(command), _CONDA_INSTALL.search(command)
            for word in (by_pip or by_conda or ("", ""))[1].split():
                item = _CONDA.fullmatch(f"- {word}") if by_conda and not by_pip else None
                text_of = word.strip("'\"")
                found = _of_conda(item, False) if item else read_requirement(text_of)
                if found and (found.specifier or found.extras):
                    yield Pin(found, file, number, _channel(item) if item else "")


def _filled(line: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[3], match[2] or ""), line)


def _instructions(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, instruction): joined, comments inside left out, `["a", "b"]` as `a b`."""
    begun, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        row = line.strip()
        if row.startswith("#") or not row:
            continue
        begun = begun if joined else number
        joined += row.removesuffix("\\")
        if row.endswith("\\"):
            joined += " "
            continue
        listed = re.fullmatch(r"(\w+)\s+\[(.*)\]", joined)
        if listed:
            joined = f"{listed[1]} " + re.sub(r"""["']\s*,?\s*["']?""", " ", listed[2])
        yield begun, joined
        joined = ""


def read_setup(tree: ast.AST, file: str) -> tuple[list[Pin], list[Link], list[str]]:
    """(pins, links, Python ranges) of a setup.py: `install_requires` as a list, a sum or a name of lists, and
    `extras_require` but for extras of developers (`groups_of_setup` names them)."""
    assigned = _assigned(tree)
    pins, links, pythons = [], [], []
    for node in ast.walk(tree):
        if not isinstance(node, ast.keyword):
            continue
        if node.arg == "python_requires" and isinstance(node.value, ast.Constant):
            pythons.append(str(node.value.value))
        listed = [node.value] if node.arg == "install_requires" else []
        if node.arg == "extras_require":
            listed = [value for name, _, value in _extras(node.value, assigned) if is_for_users(name)]
        for item in (item for value in listed for item in _listed(value, assigned)):
            text = str(item.value)
            pins += [Pin(row.requirement, file, item.lineno) for row in pins_of_lines(text, file)]
            links += [Link(row.text, file, item.lineno) for row in links_of_lines(text, file)]
    return pins, links, pythons


def groups_of_setup(tree: ast.AST, file: str) -> list[tuple[str, str]]:
    """(name, place) of a setup.py's extras that are for developers, or for another kind of machine."""
    assigned = _assigned(tree)
    keywords = (node for node in ast.walk(tree) if isinstance(node, ast.keyword))
    return [
        (name, f"{file}:{line}")
        for node in keywords
        if node.arg == "extras_require"
        for name, line, _ in _extras(node.value, assigned)
        if not is_for_users(name)
    ]


def name_of_setup(tree: ast.AST) -> str | None:
    """The distribution's name: `name` of the call `setup(…)`, as a text or the name of one."""
    assigned = _assigned(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) != "setup":
            continue
        for word in node.keywords:
            value = next(_listed(word.value, assigned), None) if word.arg == "name" else None
            if value is not None and _NAME.fullmatch(str(value.value)):
                return str(value.value)
    return None


def is_for_users(group: str) -> bool:
    """Whether an extra or a group of requirements is for those who run the project."""
    return not set(re.split(r"[^a-z0-9]+", group.lower())) & NOT_FOR_USERS


def _assigned(tree: ast.AST) -> dict[str, list[ast.expr]]:
    """What the names of a file are given."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            found.setdefault(node.target.id, []).append(node.value)
    return found


def _extras(node: ast.expr, assigned: Mapping[str, list[ast.expr]]) -> Iterator[tuple[str, int, ast.expr]]:
    """(name, line, list) of `extras_require`: a table, or the name of one."""
    tables = assigned.get(node.id, []) if isinstance(node, ast.Name) else [node]
    for table in tables:
        if isinstance(table, ast.Dict):
            for key, value in zip(table.keys, table.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, key.lineno, value


def _listed(node: ast.expr, lists: Mapping[str, list[ast.expr]], depth: int = 0) -> Iterator[ast.Constant]:
    """The texts of a list, of a sum of lists, or of the name of one; a text of several lines is a list."""
    if depth > 8:
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node
    parts: list[ast.expr] = []
    if isinstance(node, ast.List | ast.Tuple):
        parts = list(node.elts)
    elif isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.Starred):
        parts = [node.value]
    elif isinstance(node, ast.Name):
        parts = lists.get(node.id, [])
    for part in parts:
        yield from _listed(part, lists, depth + 1)


def pins_of_setup_cfg(text: str, file: str) -> tuple[list[Pin], list[str]]:
    """(pins, Python ranges) of a setup.cfg's `[options]` and extras, but for those of developers."""
    parser = _setup_cfg(text)
    rows = text.splitlines()
    listed = parser.get("options", "install_requires", fallback="").splitlines()
    for group, items in _extras_of_setup_cfg(parser):
        listed += items.splitlines() if is_for_users(group) else []
    found = ((item, read_requirement(item)) for item in listed if item.strip())
    pins = [Pin(requirement, file, line_of(rows, item)) for item, requirement in found if requirement]
    python = parser.get("options", "python_requires", fallback="")
    return pins, [python] if python else []


def groups_of_setup_cfg(text: str, file: str) -> list[tuple[str, str]]:
    """(name, place) of a setup.cfg's extras that are for developers, or for another kind of machine."""
    rows = text.splitlines()
    names = (group for group, _ in _extras_of_setup_cfg(_setup_cfg(text)) if not is_for_users(group))
    return [(name, f"{file}:{line_of([row.lower() for row in rows], name)}") for name in names]


def name_of_setup_cfg(text: str) -> str | None:
    """The distribution's name in a setup.cfg's `[metadata]`."""
    name = _setup_cfg(text).get("metadata", "name", fallback="").strip()
    return name if _NAME.fullmatch(name) else None


def _setup_cfg(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise ValueError(str(error)) from error
    return parser


def _extras_of_setup_cfg(parser: configparser.ConfigParser) -> list[tuple[str, str]]:
    section = "options.extras_require"
    if not parser.has_section(section):
        return []
    return [(name, items) for name, items in parser.items(section) if name not in parser.defaults()]
