"""A Python environment as files: nothing of it is run or imported.

Sources: PEP 405 (virtual environments), PEP 425 and 3149 (tags), site.py's rules for site-packages,
conda's `conda-meta`, torch's generated `version.py`.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from bringup.binaries.report import BinaryReport, Unreadable, scan_path
from bringup.errors import BringupError
from bringup.facts.environment_distributions import (
    Distribution,
    leftovers,
    path_file_folders,
    read_distributions,
    read_text,
)
from bringup.facts.environment_libraries import LibraryFacts, read_libraries
from bringup.facts.environment_loader import loader_folders
from bringup.facts.environment_python import (
    PythonFacts,
    base_prefix,
    find_prefix,
    read_python,
    read_pyvenv,
    site_folders,
)

Kind = Literal["venv", "conda", "system"]


@dataclass(frozen=True)
class TorchFacts:
    """What `torch/version.py` says.

    Attributes:
        version: "2.11.0+cu130".
        cuda: "13.0", None of a build without CUDA. hip: of a ROCm build.
        git: commit that it was built from. debug: a debug build.
        folder: the package.
    """

    version: str
    cuda: str | None
    hip: str | None
    git: str | None
    debug: bool
    folder: str


@dataclass(frozen=True)
class EnvironmentFacts:
    """An environment.

    Attributes:
        root: its prefix, absolute.
        kind: "venv", "conda" or "system".
        base: prefix of the Python that a venv was made from; else None.
        system_site_packages: a venv that also sees its base's packages.
        site_packages: folders that Python searches for distributions, in order (base's last).
        paths: further folders that `.pth` files and editable installations add.
        distributions: everything installed; the first of a name is the one that Python finds.
        binaries: what the shared objects below site-packages and `paths` carry.
        unreadable: what could not be read.
        leftovers: remains of an interrupted pip.
        filesystem: root that its absolute paths start from; another than `/` in an unpacked image.
        loader_folders: where the dynamic loader looks beside RPATHs, in order.
    """

    root: str
    kind: Kind
    python: PythonFacts
    base: str | None
    system_site_packages: bool
    site_packages: tuple[str, ...]
    paths: tuple[str, ...]
    distributions: tuple[Distribution, ...]
    torch: TorchFacts | None
    libraries: LibraryFacts
    binaries: tuple[BinaryReport, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    leftovers: tuple[str, ...] = ()
    filesystem: str = "/"
    loader_folders: tuple[str, ...] = ()

    def distribution(self, name: str) -> Distribution | None:
        """The installed distribution of this name, however it is spelled."""
        key = re.sub(r"[-_.]+", "-", name).lower()
        return next((row for row in self.distributions if row.key == key), None)

    @cached_property
    def _owners(self) -> Mapping[str, Distribution]:
        return {path: row for row in reversed(self.distributions) for path in row.binaries}

    def owner(self, path: str) -> Distribution | None:
        """The distribution that recorded this file, or whose editable project it lies in."""
        recorded = self._owners.get(path)
        if recorded is not None:
            return recorded
        editable = [row for row in self.distributions if row.editable and _below(path, row.editable)]
        return max(editable, key=lambda row: len(row.editable or ""), default=None)

    @property
    def interpreter(self) -> str:
        """How a person starts its Python: `bin/python`, on Windows `Scripts\\python.exe` or `python.exe`."""
        if not (self.python.platform or "").startswith("win"):
            return f"{self.root}/bin/python"
        scripts = Path(self.python.executable or "Scripts/python.exe").parent.name.lower() == "scripts"
        return f"{self.root}\\Scripts\\python.exe" if scripts else f"{self.root}\\python.exe"


def read_environment(
    root_or_python: Path,
    filesystem: Path = Path("/"),
    scan: bool = True,
    on_file: Callable[[str], None] | None = None,
    variables: Mapping[str, str] | None = None,
) -> EnvironmentFacts:
    """Read the environment at a prefix, or the one that an interpreter belongs to.

    Args:
        filesystem: root of the file system that it would run in (of an unpacked image).
        scan: also read every shared object.
        on_file: told each binary's path before it is read.
        variables: environment variables that it would run with; None: those of this process.

    Raises:
        BringupError: `no-such-environment`: there is no Python environment at that path.
    """
    root = find_prefix(root_or_python)
    python = read_python(root, filesystem) if root is not None else None
    if root is None or python is None:
        raise BringupError("no-such-environment", exit_code=2, path=root_or_python)
    config = read_pyvenv(root)
    base = base_prefix(config, filesystem)
    shared = config.get("include-system-site-packages", "").lower() == "true"
    unreadable: list[Unreadable] = []
    sites = list(site_folders(root, python))
    if base is not None and shared:
        sites += [folder for folder in site_folders(base, python) if folder not in sites]
    paths: list[str] = []
    for folder in sites:
        paths += [row for row in path_file_folders(folder, unreadable) if row not in paths]
    distributions = [row for folder in sites for row in read_distributions(folder, unreadable)]
    for extra in paths:
        distributions += read_distributions(Path(extra), unreadable, in_site=False)
    binaries: list[BinaryReport] = []
    if scan:
        for row in _scan([*map(str, sites), *paths], on_file):
            if isinstance(row, Unreadable):
                unreadable.append(row)
            else:
                binaries.append(row)
    return EnvironmentFacts(
        root=str(root),
        kind="venv" if config else "conda" if (root / "conda-meta").is_dir() else "system",
        python=python,
        base=str(base) if base is not None else None,
        system_site_packages=shared,
        site_packages=tuple(map(str, sites)),
        paths=tuple(paths),
        distributions=tuple(_once(distributions)),
        torch=_torch([*sites, *map(Path, paths)], unreadable),
        libraries=read_libraries([root, *([base] if base else [])], filesystem),
        binaries=tuple(binaries),
        unreadable=tuple(dict.fromkeys(unreadable)),
        leftovers=tuple(str(folder / name) for folder in sites for name in leftovers(folder)),
        filesystem=str(filesystem),
        loader_folders=loader_folders(filesystem, os.environ if variables is None else variables),
    )


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/\\") + os.sep)


def is_environment(path: Path) -> bool:
    """Whether there is a Python environment at this prefix or interpreter."""
    root = find_prefix(path)
    return root is not None and read_python(root, Path("/")) is not None


def _once(rows: list[Distribution]) -> Iterator[Distribution]:
    """An editable installation is met at its link and again at its folder."""
    seen: set[tuple[str, str | None, bool]] = set()
    editable = {row.key for row in rows if row.editable}
    for row in rows:
        outside = row.location.endswith(".egg-info") and row.editable is None
        mark = (row.key, row.version, True)
        if row.key in editable and outside and mark in seen:
            continue
        seen.add(mark)
        yield row


def _scan(
    folders: Sequence[str], on_file: Callable[[str], None] | None
) -> Iterator[BinaryReport | Unreadable]:
    done: list[str] = []
    for folder in folders:
        real = os.path.realpath(folder)
        if any(real == other or real.startswith(other + os.sep) for other in done):
            continue
        if Path(folder).is_dir():
            yield from scan_path(Path(folder), on_file)
        done.append(real)


def _torch(folders: Sequence[Path], unreadable: list[Unreadable]) -> TorchFacts | None:
    for folder in folders:
        path = folder / "torch" / "version.py"
        try:
            text = read_text(path)
        except OSError as error:
            unreadable.append(Unreadable(str(path), error.strerror or str(error)))
            continue
        if text is None:
            continue
        values = constants(text)
        version = values.get("__version__")
        return TorchFacts(
            version=str(version) if version is not None else "",
            cuda=_text_or_none(values.get("cuda")),
            hip=_text_or_none(values.get("hip")),
            git=_text_or_none(values.get("git_version")),
            debug=bool(values.get("debug")),
            folder=str(path.parent),
        )
    return None


def _text_or_none(value: object) -> str | None:
    return str(value) if isinstance(value, str) else None


def constants(source: str) -> dict[str, object]:
    """Literal values assigned at the top of a module, read as data (`cuda: Optional[str] = '13.0'`)."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            name, value = node.target.id, node.value
        else:
            continue
        if isinstance(value, ast.Constant):
            found[name] = value.value
    return found
