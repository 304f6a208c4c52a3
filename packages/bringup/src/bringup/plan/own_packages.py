"""Where our own packages come from: the checkout that bringup was installed from, bundled wheels, or a
folder of wheels that the user names.

Never a name looked up on an index: somebody else could own it there.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import Parser
from importlib import metadata, resources
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from packaging.requirements import Requirement

from bringup.errors import BringupError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_IGNORED = {"__pycache__", ".venv", "build", "dist", "tests", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


@dataclass(frozen=True)
class OwnPackage:
    """A package of this repository: a source folder or a wheel.

    Attributes:
        content: sha256 over names and bytes of what is installed; a changed source is another package.
        requirements: its run-time requirements, as its metadata has them.
    """

    name: str
    path: Path
    content: str
    requirements: tuple[str, ...]


def _checkout() -> Path | None:
    """The folder that holds this repository's packages, if bringup was installed from it."""
    record = metadata.distribution("bringup").read_text("direct_url.json")
    if not record:
        return None
    location = urlparse(json.loads(record).get("url", ""))
    if location.scheme != "file":
        return None
    return Path(url2pathname(location.path)).parent


def _hash_tree(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if not file.is_file() or _IGNORED.intersection(inside.parts) or file.suffix == ".pyc":
            continue
        digest.update(inside.as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _from_source(name: str, folder: Path, extras: Sequence[str]) -> OwnPackage:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = list(project.get("dependencies", ()))
    for extra in extras:
        requirements += project.get("optional-dependencies", {}).get(extra, ())
    return OwnPackage(name, folder, _hash_tree(folder), tuple(requirements))


def _wanted(requirement: Requirement, extras: Sequence[str]) -> bool:
    """Whether a requirement of a wheel's metadata is asked for: always, or by one of these extras."""
    if requirement.marker is None or "extra" not in str(requirement.marker):
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def _from_wheel(name: str, wheel: Path, extras: Sequence[str]) -> OwnPackage:
    with zipfile.ZipFile(wheel) as archive:
        member = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        headers = Parser().parsestr(archive.read(member).decode("utf-8"))
    listed = [Requirement(text) for text in headers.get_all("Requires-Dist", [])]
    texts = tuple(_without_extra(row) for row in listed if _wanted(row, extras))
    return OwnPackage(name, wheel, hashlib.sha256(wheel.read_bytes()).hexdigest(), texts)


def _without_extra(requirement: Requirement) -> str:
    """The requirement as one asks an index for it: an `extra` marker means nothing there."""
    if requirement.marker is not None and "extra" in str(requirement.marker):
        requirement.marker = None
    return str(requirement)


def find_own_package(name: str, extras: Sequence[str] = (), folders: Sequence[Path] = ()) -> OwnPackage:
    """Locate one of our own packages, with the requirements of these extras.

    Args:
        folders: of wheels, as `--find-links` names them.

    Raises:
        BringupError: `own-package-missing` when there is neither a checkout nor a wheel.
    """
    checkout = _checkout()
    if checkout and (checkout / name / "pyproject.toml").is_file():
        return _from_source(name, checkout / name, extras)
    bundled = Path(str(resources.files("bringup"))) / "bundled"
    for folder in (bundled, *folders):
        wheels = sorted(folder.glob(f"{name.replace('-', '_')}-*.whl"))
        if wheels:
            return _from_wheel(name, wheels[-1], extras)
    raise BringupError("own-package-missing", package=name)
