"""What a scan finds, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from bringup.binaries.architectures import Architecture, ComputeCapability
from bringup.binaries.compatibility import Images, Verdict, judge_counted
from bringup.binaries.elf import VersionNeed
from bringup.binaries.fatbin import EntryKind, FatbinContainer


@dataclass(frozen=True)
class CudaRuntime:
    """The CUDA runtime that a binary wants.

    Attributes:
        library: "libcudart.so.13", "cudart64_12.dll"; None where it is linked in.
        major: 13, None where the name does not tell.
        linkage: "shared", "static", or "driver" (libcuda alone is asked for).
    """

    library: str | None
    major: int | None
    linkage: str


@dataclass(frozen=True)
class BinaryReport:
    """What a binary carries and needs.

    Attributes:
        path: as it was found; a member of an archive as "archive.whl/inside/name.so".
        kind: "elf", "pe", "object" (relocatable), "static-library", "cubin", "fatbin", "ptx".
        size: bytes.
        containers: of all its fat binaries.
        relocatable: the containers are still to be linked (objects and static libraries).
        machine: "x86_64", "aarch64", …; None of bare device code.
        needed: libraries that it asks the loader for. soname, rpath, runpath, versions: see `ElfFacts`.
        cuda_runtime: None where it wants none.
        torch_extension: it calls torch's libraries and is not one of them.
        damage: what could not be read of it; the rest is told.
    """

    path: str
    kind: str
    containers: tuple[FatbinContainer, ...]
    needed: tuple[str, ...] = ()
    size: int = 0
    relocatable: bool = False
    machine: str | None = None
    soname: str | None = None
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    versions: tuple[VersionNeed, ...] = ()
    cuda_runtime: CudaRuntime | None = None
    torch_extension: bool = False
    damage: str | None = None

    @cached_property
    def images(self) -> Mapping[Images, int]:
        """What the containers offer, and how many offer just that."""
        return Counter(container.images for container in self.containers)

    @property
    def has_device_code(self) -> bool:
        """Whether there is anything for a GPU in it: more than what units without a kernel leave."""
        return any(not container.without_function for container in self.containers)

    @cached_property
    def machine_code_carried(self) -> tuple[Architecture, ...]:
        """Architectures with machine code anywhere in the file, in order."""
        return tuple(sorted(self._carried(EntryKind.MACHINE_CODE)))

    @cached_property
    def ptx_carried(self) -> tuple[Architecture, ...]:
        """Architectures with PTX anywhere in the file, in order."""
        return tuple(sorted(self._carried(EntryKind.PTX)))

    def _carried(self, kind: EntryKind) -> set[Architecture]:
        return {entry.architecture for row in self.containers for entry in row.entries if entry.kind == kind}

    @cached_property
    def _in_all(self) -> tuple[Architecture, ...]:
        counting = [set(images.machine_code) for images in self.images if not images.optional]
        counting = counting or [set(images.machine_code) for images in self.images if not images.empty]
        return tuple(sorted(set.intersection(*counting))) if counting else ()

    @property
    def machine_code(self) -> tuple[str, ...]:
        """Spelled: "sm_80", "sm_90a"; in the order of the chips."""
        return tuple(code.sm for code in self.machine_code_carried)

    @property
    def machine_code_in_all(self) -> tuple[str, ...]:
        """Architectures with machine code in every container that counts (see `Images.optional`)."""
        return tuple(code.sm for code in self._in_all)

    @property
    def ptx(self) -> tuple[str, ...]:
        """Spelled: "compute_120"."""
        return tuple(code.compute for code in self.ptx_carried)

    def runs_on(self, chip: ComputeCapability, driver_cuda: tuple[int, int] | None = None) -> Verdict:
        """How the file fares on a chip."""
        return judge_counted(self.images, chip, driver_cuda)


@dataclass(frozen=True)
class Unreadable:
    """A file or folder that could not be read, and why."""

    path: str
    reason: str
