"""One file or a whole tree: what it carries, as plain data."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bringup.binaries.architectures import Architecture, ComputeCapability
from bringup.binaries.compatibility import Images, Verdict, judge
from bringup.binaries.elf import NotElf, read_elf
from bringup.binaries.fatbin import FatbinContainer, read_containers

_ELF = b"\x7fELF"


@dataclass(frozen=True)
class BinaryReport:
    """What a binary carries.

    Attributes:
        path: as it was found.
        kind: "elf".
        containers: of all its fat binary sections.
        needed: libraries that it asks the loader for.
    """

    path: str
    kind: str
    containers: tuple[FatbinContainer, ...]
    needed: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[Images, ...]:
        """What each container offers."""
        return tuple(container.images for container in self.containers)

    @property
    def machine_code(self) -> tuple[str, ...]:
        """Architectures with machine code anywhere in the file."""
        found: set[Architecture] = set()
        for images in self.images:
            found.update(images.machine_code)
        return tuple(code.sm for code in sorted(found))

    @property
    def machine_code_in_all(self) -> tuple[str, ...]:
        """Architectures with machine code in every container that has more than optional code."""
        counting = [set(images.machine_code) for images in self.images if not images.optional]
        common = set.intersection(*counting) if counting else set()
        return tuple(code.sm for code in sorted(common))

    @property
    def ptx(self) -> tuple[str, ...]:
        """Architectures with PTX anywhere in the file."""
        found = {row.architecture for images in self.images for row in images.ptx}
        return tuple(code.compute for code in sorted(found))

    def runs_on(self, chip: ComputeCapability, driver_cuda: tuple[int, int] | None = None) -> Verdict:
        """How the file fares on a chip."""
        return judge(self.images, chip, driver_cuda)


@dataclass(frozen=True)
class Unreadable:
    """A file or folder that could not be read, and why."""

    path: str
    reason: str


def scan_file(path: Path) -> BinaryReport | Unreadable:
    """Read one shared object."""
    try:
        with path.open("rb") as stream:
            facts = read_elf(stream)
            containers: list[FatbinContainer] = []
            sections = facts.fatbin_sections()
            if sections:
                with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
                    for section in sections:
                        end = section.offset + section.size
                        containers += read_containers(view, section.offset, end)
        return BinaryReport(str(path), "elf", tuple(containers), facts.needed)
    except (NotElf, OSError, ValueError) as error:
        return Unreadable(str(path), str(error))


def _candidates(folder: Path) -> Iterator[Path | Unreadable]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield Unreadable(str(folder), str(error))
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _candidates(Path(entry.path))
        elif entry.is_file(follow_symlinks=False) and (entry.name.endswith(".so") or ".so." in entry.name):
            yield Path(entry.path)


def _is_elf(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) == _ELF
    except OSError:
        return True  # scan_file names the reason.


def scan_path(path: Path) -> Iterator[BinaryReport | Unreadable]:
    """Every shared object at or below `path`; symbolic links are not followed."""
    if path.is_file():
        yield scan_file(path)
        return
    for candidate in _candidates(path):
        if isinstance(candidate, Unreadable):
            yield candidate
        elif _is_elf(candidate):
            yield scan_file(candidate)
