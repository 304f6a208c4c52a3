"""Where our own packages come from: the checkout that bringup was installed from, or bundled wheels.

Never a name looked up on an index: somebody else could own it there.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

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


def _from_source(name: str, folder: Path) -> OwnPackage:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return OwnPackage(name, folder, _hash_tree(folder), tuple(project.get("dependencies", ())))


def _from_wheel(name: str, wheel: Path) -> OwnPackage:
    import zipfile
    from email.parser import Parser

    with zipfile.ZipFile(wheel) as archive:
        member = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        headers = Parser().parsestr(archive.read(member).decode("utf-8"))
    requirements = tuple(text for text in headers.get_all("Requires-Dist", []) if "extra ==" not in text)
    return OwnPackage(name, wheel, hashlib.sha256(wheel.read_bytes()).hexdigest(), requirements)


def find_own_package(name: str) -> OwnPackage:
    """Locate one of our own packages.

    Raises:
        BringupError: `own-package-missing` when there is neither a checkout nor a bundled wheel.
    """
    checkout = _checkout()
    if checkout and (checkout / name / "pyproject.toml").is_file():
        return _from_source(name, checkout / name)
    bundled = Path(str(resources.files("bringup"))) / "bundled"
    wheels = sorted(bundled.glob(f"{name.replace('-', '_')}-*.whl"))
    if wheels:
        return _from_wheel(name, wheels[-1])
    raise BringupError("own-package-missing", package=name)
