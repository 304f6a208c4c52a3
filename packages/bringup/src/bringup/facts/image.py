"""A container image in a file: its configuration and its Python environments. Nothing of it is run.

What says something about an environment (metadata, shared objects, interpreters, links) is laid out in a
temporary folder, so that every reader of environments works on it as on an installed one.

Source: OCI Image Format Specification, «Image Configuration».
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from bringup.binaries.image_archive import ImageArchive, ImageFile, open_image, surviving_files
from bringup.binaries.report import BinaryReport, Unreadable
from bringup.binaries.source import Damaged, chunks_of
from bringup.binaries.tar import clean_path
from bringup.errors import BringupError
from bringup.facts.environment import EnvironmentFacts, read_environment
from bringup.facts.environment_distributions import read_text

_ROOM_TO_LEAVE = 1 << 30
_MOST_LINKS = 200_000
_LARGEST_TEXT = 16 << 20
_LIBRARY = re.compile(r"\.so(?:\.[\d.]+)?$")
_TEXT = re.compile(
    r"""(?:^|/)(?:
        [^/]+\.(?:dist-info|egg-info)/[^/]+ | EGG-INFO/[^/]+ | [^/]+\.(?:pth|egg-link|egg-info)
        | __editable__[^/]*\.py | pyvenv\.cfg | conda-meta/[^/]+\.json | patchlevel\.h
        | lib/python\d\.\d+t?/os\.py | [^/]+/_?version\.py | _?cpp_lib\.json
        | etc/ld\.so\.conf | etc/ld\.so\.conf\.d/[^/]+
        | etc/os-release | usr/lib/os-release | usr/local/cuda[^/]*/version\.json
    )$""",
    re.VERBOSE,
)
_INTERPRETER = re.compile(r"(?:^|/)bin/python[\d.]*t?$")


@dataclass(frozen=True)
class ImageFacts:
    """An image.

    Attributes:
        path: the archive.
        root: temporary folder that stands for `/`; gone when the context ends.
        architecture: "amd64", "arm64", None where the configuration does not tell.
        system: name of its distribution, "Ubuntu 22.04.4 LTS".
        variables: the environment variables that it sets.
        entrypoint, command: what it starts.
        size: bytes of all files that a container would see.
        environments: its Python environments; first the one that `python` starts.
        unreadable: layers and files that could not be read, by their path in the image.
    """

    path: str
    root: str
    architecture: str | None
    system: str | None
    variables: tuple[tuple[str, str], ...]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    size: int
    environments: tuple[EnvironmentFacts, ...]
    unreadable: tuple[Unreadable, ...]

    def inside(self, path: str) -> str:
        """A path below `root` as the image has it."""
        return "/" + os.path.relpath(path, self.root) if path.startswith(self.root) else path


_Facts = TypeVar("_Facts")


def inside_image(facts: _Facts, root: str) -> _Facts:
    """The same facts (or findings) with every path below the temporary `root` as the image has it."""
    if isinstance(facts, str):
        return cast(_Facts, facts.replace(root.rstrip("/") + "/", "/"))
    if isinstance(facts, BinaryReport):  # Its thousands of containers name no path.
        return cast(_Facts, replace(facts, path=inside_image(facts.path, root)))
    if isinstance(facts, tuple):
        return cast(_Facts, tuple(inside_image(part, root) for part in facts))
    if isinstance(facts, dict):
        return cast(_Facts, {key: inside_image(value, root) for key, value in facts.items()})
    if is_dataclass(facts) and not isinstance(facts, type):
        changed = {part.name: inside_image(getattr(facts, part.name), root) for part in fields(facts)}
        return cast(_Facts, replace(facts, **changed))
    return facts


@dataclass
class _Layout:
    """The temporary folder while it is filled."""

    root: Path
    archive: Path
    size: int = 0
    room: int = 0
    links: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


@contextmanager
def opened_image(
    path: Path, scan: bool = True, on_file: Callable[[str], None] | None = None
) -> Iterator[ImageFacts]:
    """Read an archive of `docker save` (or podman, buildah, skopeo; both layouts).

    Args:
        scan: also read every shared object of the environments.
        on_file: told each file that is laid out or read.

    Raises:
        BringupError: `image-unreadable`, `image-too-large`.
    """
    with tempfile.TemporaryDirectory(prefix="bringup-image-") as folder:
        layout = _Layout(Path(folder).resolve(), path)
        layout.room = shutil.disk_usage(folder).free - _ROOM_TO_LEAVE
        try:
            with open_image(path) as image:
                _lay_out(image, layout, on_file)
                configuration = image.configuration
        except (Damaged, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BringupError("image-unreadable", exit_code=3, path=path, reason=reason) from error
        yield _facts(layout, configuration, scan, on_file)


def _lay_out(image: ImageArchive, layout: _Layout, on_file: Callable[[str], None] | None) -> None:
    for file in surviving_files(image, layout.unreadable):
        layout.size += file.size
        try:
            if file.source is not None and _wanted(file):
                if on_file:
                    on_file(file.path)
                _write(file, layout)
            elif (file.target or file.hard_link) and len(layout.links) < _MOST_LINKS:
                layout.links.append((file.path, _target(file)))
        except OSError as error:
            layout.unreadable.append(Unreadable(file.path, error.strerror or str(error)))
    # Last, so that no file is ever written through a link.
    for name, target in layout.links:
        _link(layout, name, target)


def _wanted(file: ImageFile) -> bool:
    if _LIBRARY.search(file.path) or _INTERPRETER.search(file.path):
        return True
    return file.size <= _LARGEST_TEXT and bool(_TEXT.search(file.path))


def _write(file: ImageFile, layout: _Layout) -> None:
    assert file.source is not None
    layout.room -= file.size
    if layout.room < 0:
        free = shutil.disk_usage(layout.root).free
        needed = free - _ROOM_TO_LEAVE - layout.room
        raise BringupError(
            "image-too-large",
            path=layout.archive,
            folder=tempfile.gettempdir(),
            needed=f"{needed / 1e9:.1f}",
            free=f"{free / 1e9:.1f}",
        )
    target = layout.root / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as stream:
        for chunk in chunks_of(file.source, 0, file.size):
            stream.write(chunk)
            written += len(chunk)
    if written < file.size:
        target.unlink()
        layout.unreadable.append(Unreadable(file.path, "cut off"))


def _target(file: ImageFile) -> str:
    """Path in the image that a link stands for; never outside it."""
    if file.hard_link is not None:
        return file.hard_link
    assert file.target is not None
    folder = "" if file.target.startswith("/") else file.path.rpartition("/")[0]
    return clean_path(f"{folder}/{file.target}")


def _link(layout: _Layout, name: str, target: str) -> None:
    place = layout.root / name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Links made before lead only into the folder, so its real parent is in it, too.
        real = Path(os.path.realpath(place.parent))
        if real.is_relative_to(layout.root) and not os.path.lexists(place):
            (real / place.name).symlink_to(os.path.relpath(layout.root / target, real))
    except (OSError, ValueError) as error:
        layout.unreadable.append(Unreadable(name, str(error)))


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _facts(
    layout: _Layout, configuration: dict[str, Any], scan: bool, on_file: Callable[[str], None] | None
) -> ImageFacts:
    inner = configuration.get("config")
    config: dict[str, Any] = inner if isinstance(inner, dict) else {}
    pairs = (text.partition("=") for text in _strings(config.get("Env")))
    variables = tuple((name, value) for name, _, value in pairs)
    prefixes = _prefixes(layout.root, dict(variables).get("PATH", "/usr/local/bin:/usr/bin:/bin"))
    read = (_environment(prefix, layout.root, scan, on_file, dict(variables)) for prefix in prefixes)
    architecture = configuration.get("architecture")
    return ImageFacts(
        path=str(layout.archive),
        root=str(layout.root),
        architecture=str(architecture) if architecture else None,
        system=_system(layout.root),
        variables=variables,
        entrypoint=_strings(config.get("Entrypoint")),
        command=_strings(config.get("Cmd")),
        size=layout.size,
        environments=tuple(row for row in read if row and (row.distributions or row.python.executable)),
        unreadable=tuple(layout.unreadable),
    )


def _environment(
    prefix: Path,
    root: Path,
    scan: bool,
    on_file: Callable[[str], None] | None,
    variables: dict[str, str],
) -> EnvironmentFacts | None:
    try:
        return read_environment(prefix, root, scan, on_file, variables)
    except BringupError:
        return None  # A folder that only looks like an environment.


def _prefixes(root: Path, search_path: str) -> list[Path]:
    """Where environments are: that of `python` first, the others by name."""
    found = []
    for folder, folders, files in os.walk(root):
        libraries = Path(folder, "lib")
        versioned = "lib" in folders and any(libraries.glob("python[0-9].*"))
        if "pyvenv.cfg" in files or "conda-meta" in folders or versioned:
            found.append(Path(folder))
    first: list[Path] = []
    for text in search_path.split(":"):
        for name in ("python", "python3"):
            interpreter = root / clean_path(text) / name
            if interpreter.exists():
                # The folder's own links count (usr-merge), the interpreter's do not: a venv links out.
                first.append(Path(os.path.realpath(interpreter.parent)).parent)
    ordered = [prefix for prefix in dict.fromkeys(first) if prefix.is_relative_to(root)]
    return list(dict.fromkeys([*ordered, *sorted(found)]))


def _system(root: Path) -> str | None:
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            text = read_text(root / name) or ""
        except OSError:
            continue
        match = re.search(r'^PRETTY_NAME="?([^"\n]+)', text, re.MULTILINE)
        if match:
            return match[1]
    return None
