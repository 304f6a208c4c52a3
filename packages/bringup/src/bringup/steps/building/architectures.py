"""What to build for: `--arch` in any spelling, named GPUs, or those that are here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from bringup.binaries.architectures import (
    Architecture,
    ArchitectureList,
    ComputeCapability,
    parse_arch_list,
)
from bringup.binaries.compatibility import carries, machine_code_runs
from bringup.catalog import load
from bringup.errors import BringupError
from bringup.facts.gpus import GpuSurvey, usable_gpus
from bringup.facts.toolchains import CudaToolkit


@dataclass(frozen=True)
class WantedGpu:
    """A chip that the result must run on. `name`: as the catalog or the driver calls it."""

    name: str
    capability: ComputeCapability


@dataclass(frozen=True)
class Wanted:
    """What was asked for.

    Attributes:
        given: the list of `--arch`, None where the GPUs decide.
        gpus: chips that the result must run on; may be empty beside `given`.
    """

    given: ArchitectureList | None
    gpus: tuple[WantedGpu, ...]

    @property
    def chips(self) -> tuple[ComputeCapability, ...]:
        """All chips that are named in either way."""
        listed = self.given.machine_code + self.given.ptx if self.given else ()
        return tuple(sorted({*(row.capability for row in listed), *(gpu.capability for gpu in self.gpus)}))


def choose_architectures(arch: str | None, gpus: Sequence[str], survey: GpuSurvey) -> Wanted:
    """`--arch` and `--gpu` as given; without them the GPUs here; without those TORCH_CUDA_ARCH_LIST.

    Raises:
        BringupError: `arch-unreadable`; `unknown-gpu`; `arch-not-for-gpu`: the list leaves out a GPU that
            was named beside it; `build-no-architecture`: nothing says what to build for.
    """
    found = (load().find_gpu(name) for name in gpus)
    named = tuple(dict.fromkeys(WantedGpu(name, capability) for name, capability in found))
    if arch is not None:
        given = _parse(arch)
        for gpu in named:
            if not carries(given.machine_code, given.ptx, gpu.capability):
                raise BringupError(
                    "arch-not-for-gpu", exit_code=2, arch=arch, gpu=gpu.name, needed=gpu.capability
                )
        return Wanted(given, named)
    if named:
        return Wanted(None, named)
    here = tuple(dict.fromkeys(WantedGpu(gpu.name, gpu.capability) for gpu in usable_gpus(survey)))
    if here:
        return Wanted(None, here)
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if listed:
        return Wanted(_parse(listed), ())
    raise BringupError("build-no-architecture", exit_code=2)


def _parse(text: str) -> ArchitectureList:
    try:
        return parse_arch_list(text)
    except ValueError as error:
        raise BringupError("arch-unreadable", exit_code=2, given=text, text=error) from error


def _best_for(chip: ComputeCapability, toolkit: CudaToolkit) -> Architecture | None:
    """The chip's own machine code, or the nearest that it runs: sm_120 for a 12.1 that nvcc 12.8 predates."""
    plain = [row for row in toolkit.architectures if not row.suffix and machine_code_runs(row, chip)]
    return max(plain, default=None)


def architectures_for(wanted: Wanted, toolkit: CudaToolkit) -> ArchitectureList:
    """What a toolkit is asked to make.

    Raises:
        BringupError: `toolkit-lacks-architecture`: it cannot compile for one of them.
    """
    if wanted.given is not None:
        for row in (*wanted.given.machine_code, *wanted.given.ptx):
            if row not in toolkit.architectures:
                raise _lacks(toolkit, row.sm)
        return wanted.given
    code = set()
    for gpu in wanted.gpus:
        best = _best_for(gpu.capability, toolkit)
        if best is None:
            raise _lacks(toolkit, gpu.capability.sm)
        code.add(best)
    return ArchitectureList(tuple(sorted(code)), ())


def _lacks(toolkit: CudaToolkit, name: str) -> BringupError:
    serving = [
        row.version
        for row in load().toolkits
        if name in row.architectures or name.rstrip("af") in row.architectures
    ]
    known = [row.sm for row in toolkit.architectures if not row.suffix]
    return BringupError(
        "toolkit-lacks-architecture",
        version=toolkit.release,
        architecture=name,
        range=f"{known[0]} … {known[-1]}" if known else "–",
        serving=", ".join(serving) or "–",
    )


def nvcc_flags(architectures: ArchitectureList) -> str:
    """For NVCC_APPEND_FLAGS: makes nvcc compile for these as well, whatever else its command line names."""
    code = [f"-gencode=arch={row.compute},code={row.sm}" for row in architectures.machine_code]
    ptx = [f"-gencode=arch={row.compute},code={row.compute}" for row in architectures.ptx]
    return " ".join([*code, *ptx])
