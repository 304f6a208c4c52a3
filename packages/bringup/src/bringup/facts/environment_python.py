"""The interpreter of an environment, by its files: version, tags, and where it looks for packages.

Sources: PEP 405 (`pyvenv.cfg`), PEP 425 and 3149 (tags), site.py and Debian's changes to it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bringup.binaries.elf import read_elf
from bringup.binaries.source import Damaged, open_source
from bringup.facts.environment_distributions import read_text

_VERSIONED = re.compile(r"python(\d+)\.(\d+)(t?)")
_WINDOWS_DLL = re.compile(r"python(\d)(\d+)(t?)\.dll", re.IGNORECASE)


@dataclass(frozen=True)
class PythonFacts:
    """The interpreter.

    Attributes:
        version: "3.11.7", or "3.11" where only that can be read.
        abi: "cp311", "cp313t".
        platform: "linux_x86_64", "linux_aarch64", "win_amd64"; None where no file tells.
        executable: None where it is missing (a broken link to a Python that is gone).
    """

    version: str
    abi: str
    platform: str | None
    executable: str | None

    @property
    def minor(self) -> tuple[int, int]:
        """(3, 11)."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


def find_prefix(path: Path) -> Path | None:
    """The prefix of an interpreter, or the folder itself."""
    path = path.absolute()
    if path.is_dir():
        return path
    if not path.exists() and not path.is_symlink():
        return None
    # A venv's python is a link out of it: its own folder decides, then the link's.
    for candidate in (path, Path(os.path.realpath(path))):
        folder = candidate.parent
        prefix = folder.parent if folder.name.lower() in ("bin", "scripts") else folder
        if (prefix / "pyvenv.cfg").is_file() or next(_library_folders(prefix), None):
            return prefix
    return None


def read_pyvenv(root: Path) -> dict[str, str]:
    """Keys (lower case) and values of `pyvenv.cfg`; {} where there is none."""
    try:
        text = read_text(root / "pyvenv.cfg") or ""
    except OSError:
        text = ""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip().lower(): value.strip() for key, sign, value in pairs if sign}


def base_prefix(config: dict[str, str], filesystem: Path) -> Path | None:
    """Prefix of the Python below a venv."""
    home = config.get("home")
    if not home:
        return None
    folder = _inside(filesystem, home)
    return folder.parent if folder.name.lower() in ("bin", "scripts") else folder


def _inside(filesystem: Path, path: str) -> Path:
    """An absolute path of the environment's file system."""
    return Path(path) if filesystem == Path("/") else filesystem / path.lstrip("/")


def _library_folders(prefix: Path) -> Iterator[tuple[Path, str]]:
    """(folder, "3.11" or "3.13t") of every `lib/pythonX.Y` below a prefix, newest first."""
    found = []
    for library in ("lib", "lib64", "local/lib"):
        try:
            names = [path.name for path in (prefix / library).iterdir()]
        except OSError:
            continue
        for name in names:
            match = _VERSIONED.fullmatch(name)
            if match and (prefix / library / name).is_dir():
                found.append((int(match[1]), int(match[2]), match[3], prefix / library / name))
    for major, minor, threads, folder in sorted(found, key=lambda row: row[:2], reverse=True):
        yield folder, f"{major}.{minor}{threads}"


def read_python(root: Path, filesystem: Path) -> PythonFacts | None:
    """The interpreter of a prefix; None where there is no Python."""
    executable = _executable(root)
    config = read_pyvenv(root)
    minor = _minor(root, executable)
    written = config.get("version_info") or config.get("version") or ""
    match = re.match(r"(\d+)\.(\d+)(\.\d+)?", written)
    if minor is None and match:
        minor = f"{match[1]}.{match[2]}"
    if minor is None:
        return None
    version = minor.rstrip("t")
    if match and f"{match[1]}.{match[2]}" == version:
        version = match[0]
    else:
        prefix = base_prefix(config, filesystem) or root
        version = _exact_version(prefix, minor) or version
    abi = "cp" + minor.replace(".", "")
    return PythonFacts(version, abi, _platform(root, executable), str(executable) if executable else None)


def _executable(root: Path) -> Path | None:
    for name in ("bin/python3", "bin/python", "Scripts/python.exe", "python.exe"):
        if (root / name).exists():
            return root / name
    return None


def _minor(root: Path, executable: Path | None) -> str | None:
    """ "3.11" or "3.13t": the version that `bin/python3` is, else the newest library folder."""
    if executable is not None:
        match = _VERSIONED.fullmatch(Path(os.path.realpath(executable)).name)
        if match:
            return f"{match[1]}.{match[2]}{match[3]}"
    for folder, minor in _library_folders(root):
        if (folder / "site-packages").is_dir() or (folder / "os.py").is_file():
            return minor
    try:
        names = sorted(path.name for path in root.iterdir())
    except OSError:
        return None
    dll = next((match for name in names if (match := _WINDOWS_DLL.fullmatch(name))), None)
    return f"{dll[1]}.{dll[2]}{dll[3]}" if dll else None


def _exact_version(prefix: Path, minor: str) -> str | None:
    """From the C header, or from conda's record of the package."""
    number = minor.rstrip("t")
    try:
        text = read_text(prefix / "include" / f"python{minor}" / "patchlevel.h") or ""
        match = re.search(r'#define\s+PY_VERSION\s+"([^"+]+)', text)
        if match:
            return match[1]
        for record in sorted((prefix / "conda-meta").glob("python-3.*.json")):
            version = str(json.loads(read_text(record) or "{}").get("version", ""))
            if version.startswith(number + "."):
                return version
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return None


def _platform(root: Path, executable: Path | None) -> str | None:
    if executable is not None and executable.suffix == ".exe":
        return "win_amd64"
    candidates = [executable] if executable is not None else []
    for folder, _ in _library_folders(root):
        candidates += sorted((folder / "lib-dynload").glob("*.so"))[:1]
    machines = (_machine(path) for path in candidates)
    return next((f"linux_{machine}" for machine in machines if machine), None)


def _machine(path: Path) -> str | None:
    try:
        with open_source(path) as source:
            return read_elf(source).machine
    except (OSError, Damaged):
        return None


def site_folders(prefix: Path, python: PythonFacts) -> Iterator[Path]:
    """The folders that site.py and Debian's version of it would add."""
    tag = python.abi.removeprefix("cp")
    minor = f"python{tag[0]}.{tag[1:]}"
    roots = [prefix] if prefix.name != "" else [prefix / "usr", prefix / "usr/local"]
    if prefix.name == "usr":
        roots.insert(0, prefix / "local")
    seen: set[str] = set()
    for root in roots:
        for inner in (
            f"lib/{minor}/site-packages",
            f"lib64/{minor}/site-packages",
            f"local/lib/{minor}/dist-packages",
            f"lib/{minor}/dist-packages",
            "lib/python3/dist-packages",
            "Lib/site-packages",
        ):
            folder = root / inner
            # `lib64` is often a link to `lib`, and Windows' file names know no case.
            if folder.is_dir() and os.path.realpath(folder) not in seen:
                seen.add(os.path.realpath(folder))
                yield folder
