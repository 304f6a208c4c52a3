"""Installed distributions, read from their metadata files; broken ones are told, not fatal.

Sources: PyPA specifications «Recording installed projects», «Core metadata», «Direct URL»; setuptools'
egg-info and `.egg-link`.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import unquote, urlparse

from bringup.binaries.report import Unreadable

_LARGEST_TEXT = 16 << 20
_BINARY = re.compile(r"\.(?:so(?:\.[\w.+-]+)?|pyd|dll)$", re.IGNORECASE)
_EXTRA = re.compile(r";.*\bextra\s*==")
_FOLDER_NAME = re.compile(r"(.+?)-(\d[^-]*)(?:-py[\d.]+.*)?")


@dataclass(frozen=True)
class Distribution:
    """An installed distribution.

    Attributes:
        name: as its metadata spells it; `key` is the comparable form.
        version: with its local label, "2.0.1+cu117"; None where nothing tells.
        requires: requirement lines as they stand, those of extras left out.
        requires_python: as it stands, or None.
        location: its metadata folder or file.
        site: the folder that its files are relative to.
        installer: "pip", "uv", "conda", …
        direct_url: where it was installed from, if not from an index.
        commit, subfolder: of the repository behind `direct_url`, where it is one.
        editable: project folder of an editable installation.
        import_names: top-level modules and packages.
        binaries: shared objects that it recorded, as absolute paths; none where it kept no record.
        trouble: what is wrong with the metadata, None where nothing is.
    """

    name: str
    version: str | None
    requires: tuple[str, ...]
    requires_python: str | None
    location: str
    site: str
    installer: str | None = None
    direct_url: str | None = None
    editable: str | None = None
    import_names: tuple[str, ...] = ()
    binaries: tuple[str, ...] = ()
    trouble: str | None = None
    commit: str | None = None
    subfolder: str = ""

    @property
    def key(self) -> str:
        """The name as PEP 503 compares it."""
        return re.sub(r"[-_.]+", "-", self.name).lower()


def read_text(path: Path) -> str | None:
    """A text file of sane size; None where there is none. Undecodable bytes are replaced.

    Raises:
        OSError: it is there and cannot be read, or is too large.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST_TEXT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(data) > _LARGEST_TEXT:
        raise OSError(f"{path.name} is larger than any metadata")
    return data.decode("utf-8", "replace")


@dataclass
class _Files:
    """The texts of one metadata folder; what cannot be read is remembered."""

    folder: Path
    trouble: str | None = None

    def text(self, name: str) -> str | None:
        try:
            return read_text(self.folder / name)
        except OSError as error:
            self.trouble = self.trouble or f"{name}: {error.strerror or error}"
            return None


def read_distributions(
    site: Path, unreadable: list[Unreadable], in_site: bool = True
) -> Iterator[Distribution]:
    """Distributions whose metadata lies in `site`, in the order of their names.

    Args:
        unreadable: filled with what could not be listed.
        in_site: also follow `.egg-link` files and read `.egg` folders.
    """
    try:
        names = sorted(path.name for path in site.iterdir())
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            unreadable.append(Unreadable(str(site), error.strerror or str(error)))
        return
    for name in names:
        path = site / name
        if name.startswith("~"):
            continue  # pip renames what it is about to replace; an interrupted pip leaves it behind.
        try:
            if name.endswith(".dist-info"):
                yield _dist_info(path, site)
            elif name.endswith(".egg-info"):
                yield _egg_info(path, site)
            elif in_site and name.endswith(".egg") and path.is_dir():
                yield _egg_info(path / "EGG-INFO", path, name)
            elif in_site and name.endswith(".egg-link"):
                yield from _linked(path, unreadable)
        except OSError as error:
            unreadable.append(Unreadable(str(path), error.strerror or str(error)))


def leftovers(site: Path) -> tuple[str, ...]:
    """Folders that an interrupted pip left behind («~orch-2.0.1.dist-info»)."""
    try:
        return tuple(sorted(path.name for path in site.glob("~*")))
    except OSError:
        return ()


def _from_folder_name(name: str) -> tuple[str, str | None]:
    stem = name.rsplit(".", 1)[0]
    match = _FOLDER_NAME.fullmatch(stem)
    return (match[1], match[2]) if match else (stem, None)


def _dist_info(folder: Path, site: Path) -> Distribution:
    files = _Files(folder)
    name, version = _from_folder_name(folder.name)
    metadata = files.text("METADATA")
    if metadata is None:
        files.trouble = files.trouble or "METADATA is missing"
    headers = HeaderParser().parsestr(metadata or "")
    record = _recorded(files)
    origin = _direct_url(files)
    installer = (files.text("INSTALLER") or "").strip() or None
    return Distribution(
        name=headers.get("Name") or name,
        version=headers.get("Version") or version,
        requires=tuple(row for row in headers.get_all("Requires-Dist", []) if not _EXTRA.search(row)),
        requires_python=headers.get("Requires-Python"),
        location=str(folder),
        site=str(site),
        installer=installer,
        direct_url=origin.url,
        editable=origin.editable,
        import_names=_import_names(files.text("top_level.txt"), record),
        binaries=_absolute(site, record),
        trouble=files.trouble,
        commit=origin.commit,
        subfolder=origin.subfolder,
    )


def _recorded(files: _Files) -> list[str]:
    text = files.text("RECORD")
    if text is None:
        return []
    try:
        return [row[0] for row in csv.reader(io.StringIO(text)) if row]
    except csv.Error as error:
        files.trouble = files.trouble or f"RECORD: {error}"
        return []


def _absolute(site: Path, record: list[str]) -> tuple[str, ...]:
    found = (os.path.normpath(site / row) for row in record if _BINARY.search(row))
    return tuple(sorted(found))


def _import_names(top_level: str | None, record: list[str]) -> tuple[str, ...]:
    if top_level is not None:
        names = {line.strip() for line in top_level.splitlines()}
    else:
        names = set()
        for row in record:
            first, _, rest = row.partition("/")
            if rest and not first.endswith((".dist-info", ".data", "__pycache__")) and first != "..":
                names.add(first)
            elif not rest and first.endswith((".py", ".so", ".pyd")):
                names.add(first.split(".")[0])
    return tuple(sorted(name for name in names if name.isidentifier()))


@dataclass(frozen=True)
class _Origin:
    """What `direct_url.json` says; see `Distribution`."""

    url: str | None = None
    editable: str | None = None
    commit: str | None = None
    subfolder: str = ""


def _direct_url(files: _Files) -> _Origin:
    text = files.text("direct_url.json")
    if text is None:
        return _Origin()
    try:
        document = json.loads(text)
        url = str(document["url"])
        editable = unquote(urlparse(url).path) if document.get("dir_info", {}).get("editable") else None
        commit = document.get("vcs_info", {}).get("commit_id")
        return _Origin(url, editable, str(commit) if commit else None, str(document.get("subdirectory", "")))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        files.trouble = files.trouble or "direct_url.json is damaged"
        return _Origin()


def _egg_info(path: Path, site: Path, shown: str | None = None) -> Distribution:
    """Metadata of `setup.py install` and `develop`: a folder, or a single file of distutils."""
    name, version = _from_folder_name(shown or path.name)
    alone = path.is_file()
    files = _Files(path.parent if alone else path)
    metadata = files.text(path.name if alone else "PKG-INFO")
    if metadata is None:
        files.trouble = files.trouble or "PKG-INFO is missing"
    headers = HeaderParser().parsestr(metadata or "")
    requires = tuple(headers.get_all("Requires-Dist", [])) if alone else _egg_requires(files)
    installed = "" if alone else files.text("installed-files.txt") or ""
    record = [os.path.normpath(path / row) for row in installed.splitlines() if row]
    return Distribution(
        name=headers.get("Name") or name,
        version=headers.get("Version") or version,
        requires=requires,
        requires_python=headers.get("Requires-Python"),
        location=str(path),
        site=str(site),
        import_names=_import_names(None if alone else files.text("top_level.txt"), []),
        binaries=tuple(sorted(row for row in record if _BINARY.search(row))),
        trouble=files.trouble,
    )


def _egg_requires(files: _Files) -> tuple[str, ...]:
    """requires.txt up to its first section, which is an extra or a marker."""
    lines = []
    for line in (files.text("requires.txt") or "").splitlines():
        if line.startswith("["):
            break
        if line.strip():
            lines.append(line.strip())
    return tuple(lines)


def _linked(path: Path, unreadable: list[Unreadable]) -> Iterator[Distribution]:
    """`setup.py develop`: the link's first line names the folder that has the egg-info."""
    lines = (read_text(path) or "").splitlines()
    if not lines:
        unreadable.append(Unreadable(str(path), "empty"))
        return
    project = Path(lines[0].strip())
    found = list(read_distributions(project, unreadable, in_site=False))
    if not found:
        unreadable.append(Unreadable(str(path), f"links to {project}, which has no metadata"))
    for row in found:
        yield replace(row, editable=str(project))


def path_file_folders(site: Path, unreadable: list[Unreadable]) -> tuple[str, ...]:
    """Folders that `.pth` files of `site` add to the path, and those of setuptools' editable finders.

    Lines of `.pth` files that begin with `import` would be run by Python; they are left alone here.
    """
    folders: list[str] = []
    try:
        names = sorted(path.name for path in site.iterdir())
    except OSError:
        return ()
    for name in names:
        try:
            folders += _added_by(site, name)
        except OSError as error:  # noqa: PERF203 — one broken file must not hide the others.
            unreadable.append(Unreadable(str(site / name), error.strerror or str(error)))
    return tuple(dict.fromkeys(folder for folder in folders if Path(folder).is_dir()))


def _added_by(site: Path, name: str) -> list[str]:
    if name.startswith("__editable__") and name.endswith("_finder.py"):
        return _finder_folders(read_text(site / name) or "")
    if not name.endswith(".pth"):
        return []
    lines = (line.strip() for line in (read_text(site / name) or "").splitlines())
    kept = (line for line in lines if line and not line.startswith(("#", "import ", "import\t")))
    return [os.path.normpath(site / line) for line in kept if "\0" not in line]


def _finder_folders(source: str) -> list[str]:
    """Package folders in the `MAPPING` of a setuptools finder module, read as data."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if isinstance(target, ast.Name) and target.id == "MAPPING":
            try:
                mapping = ast.literal_eval(node.value)
            except (ValueError, TypeError, RecursionError, MemoryError):
                return []
            return [str(value) for value in mapping.values()] if isinstance(mapping, dict) else []
    return []
