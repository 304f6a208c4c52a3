"""What runs where: which machine code and PTX a chip can use, judged container by container.

Sources: CUDA C++ Programming Guide, «Compute capabilities» and «Binary and PTX compatibility»; NVIDIA's
Blackwell compatibility guide for the family-specific targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bringup.binaries.architectures import Architecture, ComputeCapability

Status = Literal["machine-code", "ptx", "partial", "no"]

# Before CUDA 13 Thor was called 10.1; since then it is 11.0.
_RENAMED = {101: 110}
# Chips that code for `f` of the key runs on, as ptxas 13.5 accepts them.
_FAMILIES = {100: (100, 103, 107), 103: (103, 107), 107: (107,), 110: (110,), 120: (120, 121), 121: (121,)}


def _renamed(number: int) -> int:
    return _RENAMED.get(number, number)


def machine_code_runs(code: Architecture, chip: ComputeCapability) -> bool:
    """Whether the chip executes this machine code as it is."""
    built, here = _renamed(code.number), _renamed(chip.number)
    if code.suffix == "a":
        return built == here
    if code.suffix == "f":
        return here in _FAMILIES.get(built, (built,))
    return built // 10 == here // 10 and here >= built


def ptx_runs(ptx: Architecture, chip: ComputeCapability) -> bool:
    """Whether the driver can compile this PTX for the chip."""
    if ptx.suffix:
        return machine_code_runs(ptx, chip)
    return _renamed(chip.number) >= _renamed(ptx.number)


def carries(
    machine_code: Iterable[Architecture], ptx: Iterable[Architecture], chip: ComputeCapability
) -> bool:
    """Whether any of these images serves the chip."""
    return any(machine_code_runs(code, chip) for code in machine_code) or any(
        ptx_runs(code, chip) for code in ptx
    )


@dataclass(frozen=True)
class Ptx:
    """PTX of one architecture; `isa` is the PTX version, (9, 0) of nvcc 13.0, None where unknown."""

    architecture: Architecture
    isa: tuple[int, int] | None = None


@dataclass(frozen=True)
class Images:
    """What one container of a fat binary offers."""

    machine_code: tuple[Architecture, ...]
    ptx: tuple[Ptx, ...]

    @property
    def empty(self) -> bool:
        """Nothing for the loader: only input of the link-time optimiser."""
        return not self.machine_code and not self.ptx

    @property
    def optional(self) -> bool:
        """Only architecture- or family-specific images: faster code for one chip, never the only code."""
        every = [*self.machine_code, *(row.architecture for row in self.ptx)]
        return all(architecture.suffix for architecture in every)


@dataclass(frozen=True)
class Verdict:
    """How a file fares on a chip. The counts are of the containers that count.

    Attributes:
        status: "machine-code": every container has an image; "ptx": some need the driver's compiler;
            "partial": some have nothing; "no": none has anything.
    """

    status: Status
    by_machine_code: int = 0
    by_ptx: int = 0
    without: int = 0


# PTX version that the driver of each CUDA release understands: PTX ISA, «Release history».
_NEWEST_PTX = {
    (9, 0): (6, 0), (9, 1): (6, 1), (9, 2): (6, 2), (10, 0): (6, 3), (10, 1): (6, 4), (10, 2): (6, 5),
    (11, 0): (7, 0), (11, 1): (7, 1), (11, 2): (7, 2), (11, 3): (7, 3), (11, 4): (7, 4), (11, 5): (7, 5),
    (11, 6): (7, 6), (11, 7): (7, 7), (11, 8): (7, 8), (12, 0): (8, 0), (12, 1): (8, 1), (12, 2): (8, 2),
    (12, 3): (8, 3), (12, 4): (8, 4), (12, 5): (8, 5), (12, 6): (8, 5), (12, 7): (8, 6), (12, 8): (8, 7),
    (12, 9): (8, 8), (13, 0): (9, 0), (13, 1): (9, 1), (13, 2): (9, 2),
    (13, 3): (9, 3), (13, 4): (9, 4), (13, 5): (9, 5),
}  # fmt: skip


def newest_ptx(driver_cuda: tuple[int, int]) -> tuple[int, int] | None:
    """Newest PTX version that a driver of this CUDA version compiles; None: newer than the table knows."""
    if driver_cuda > max(_NEWEST_PTX):
        return None
    known = [version for version in _NEWEST_PTX if version <= driver_cuda]
    return _NEWEST_PTX[max(known, default=min(_NEWEST_PTX))]


def _ptx_serves(row: Ptx, chip: ComputeCapability, driver_cuda: tuple[int, int] | None) -> bool:
    if not ptx_runs(row.architecture, chip):
        return False
    limit = newest_ptx(driver_cuda) if driver_cuda else None
    return limit is None or row.isa is None or row.isa <= limit


def judge(
    containers: Sequence[Images], chip: ComputeCapability, driver_cuda: tuple[int, int] | None = None
) -> Verdict:
    """Judge a file's containers for a chip.

    Containers whose images are all architecture- or family-specific are optional code and do not count,
    unless there is nothing else.

    Args:
        driver_cuda: the driver's CUDA version; PTX newer than it does not count. None: not asked.
    """
    return judge_counted(Counter(containers), chip, driver_cuda)


def judge_counted(
    containers: Mapping[Images, int], chip: ComputeCapability, driver_cuda: tuple[int, int] | None = None
) -> Verdict:
    """As `judge`, with the number of containers that offer the same."""
    counting = [images for images in containers if not images.optional]
    counting = counting or [images for images in containers if not images.empty] or list(containers)
    by_code = by_ptx = without = 0
    for images in counting:
        if any(machine_code_runs(code, chip) for code in images.machine_code):
            by_code += containers[images]
        elif any(_ptx_serves(row, chip, driver_cuda) for row in images.ptx):
            by_ptx += containers[images]
        else:
            without += containers[images]
    status: Status
    if not by_code and not by_ptx:
        status = "no"
    elif without:
        status = "partial"
    else:
        status = "ptx" if by_ptx else "machine-code"
    return Verdict(status, by_code, by_ptx, without)
