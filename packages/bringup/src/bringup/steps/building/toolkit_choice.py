"""Which CUDA compiles: wheels in user space where CUDA 13 serves, otherwise an installed one, checked."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bringup import state
from bringup.binaries.architectures import Architecture, ArchitectureList
from bringup.binaries.compatibility import machine_code_runs
from bringup.binaries.report import Unreadable, scan_file
from bringup.catalog import load
from bringup.errors import BringupError
from bringup.facts.environment import EnvironmentFacts
from bringup.facts.gpus import DriverFacts
from bringup.facts.toolchains import (
    CudaToolkit,
    HostCompiler,
    find_host_compilers,
    find_toolkits,
    toolkit_at,
)
from bringup.steps.building.architectures import Wanted, architectures_for, nvcc_flags
from bringup.steps.building.failures import first_errors
from bringup.steps.toolkit.pip import Source
from bringup.steps.toolkit.wheels import find_in_store, install_into_store

# The first release whose wheels hold nvcc itself.
_FIRST_AS_WHEELS = (13, 0)
# Errors after which an installed toolkit may still serve.
UNREACHABLE = ("no-network", "no-versions", "no-matching-distribution", "untrusted-index")
_PROBE = """\
#include <cuda_runtime.h>
__global__ void probe(float* values) { values[threadIdx.x] *= 2; }
void start(float* values) { probe<<<1, 32>>>(values); }
"""


@dataclass(frozen=True)
class RejectedToolkit:
    """A toolkit that was not taken. `reason`: a key below `build.toolkit-reason`; `detail` for its words."""

    toolkit: str
    reason: str
    detail: str


class NoToolkit(BringupError):
    """`no-cuda-toolkit`, with all that was tried and why each was not taken."""

    def __init__(self, rejected: Sequence[RejectedToolkit], version: str, chips: str) -> None:
        tried = ", ".join(row.toolkit for row in rejected) or "–"
        super().__init__("no-cuda-toolkit", version=version, chips=chips, tried=tried)
        self.rejected = tuple(rejected)


@dataclass(frozen=True)
class ToolkitChoice:
    """The toolkit, the host compiler that it was tried with, and what it is asked to make."""

    toolkit: CudaToolkit
    compiler: HostCompiler
    architectures: ArchitectureList
    rejected: tuple[RejectedToolkit, ...]


@dataclass(frozen=True)
class ToolkitWish:
    """What the choice depends on.

    Attributes:
        torch_cuda: of the torch that is built against, "13.0"; None for a project without torch.
        where: "wheels", "system", a folder, or None: wheels first.
    """

    wanted: Wanted
    torch_cuda: str | None
    driver: DriverFacts | None
    where: str | None
    source: Source


def _number(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _serves(version: str, wanted: Wanted) -> bool:
    """Whether the catalog's toolkit of this version compiles for everything that is wanted."""
    row = load().toolkit(version)
    names = row.architectures if row else ()
    if wanted.given:
        return all(code.sm in names for code in (*wanted.given.machine_code, *wanted.given.ptx))
    plain = [Architecture.parse(name) for name in names if name[-1].isdigit()]
    return all(any(machine_code_runs(code, gpu.capability) for code in plain) for gpu in wanted.gpus)


def version_for_wheels(wish: ToolkitWish) -> str | None:
    """The release to take from wheels: torch's own; without torch the oldest that knows the chips, since
    it asks least of the driver. None: no wheels serve."""
    if wish.torch_cuda:
        return wish.torch_cuda if _number(wish.torch_cuda) >= _FIRST_AS_WHEELS else None
    for row in load().toolkits:
        number = _number(row.version)
        if number < _FIRST_AS_WHEELS or (wish.driver and number > wish.driver.cuda):
            continue
        if _serves(row.version, wish.wanted):
            return row.version
    return None


def _unfit(toolkit: CudaToolkit, wish: ToolkitWish) -> tuple[str, str] | None:
    """(reason, detail) against a toolkit, before anything is compiled with it."""
    if wish.torch_cuda:
        torch = _number(wish.torch_cuda)
        if toolkit.number[0] != torch[0]:
            return "other-major", wish.torch_cuda
        with_ptx = wish.wanted.given is not None and wish.wanted.given.ptx
        if toolkit.number > torch and with_ptx:
            return "newer-ptx", wish.torch_cuda
    elif wish.driver and toolkit.number[0] > wish.driver.cuda[0]:
        return "newer-than-driver", ".".join(map(str, wish.driver.cuda))
    try:
        architectures_for(wish.wanted, toolkit)
    except BringupError as error:
        return "lacks-architecture", str(error.parameters["architecture"])
    return None


def _try_to_compile(toolkit: CudaToolkit, compiler: HostCompiler, wanted: ArchitectureList) -> str | None:
    """None if a kernel compiles and carries what is wanted; else what the compiler said."""
    with tempfile.TemporaryDirectory(prefix="bringup-") as folder:
        source, thing = Path(folder) / "probe.cu", Path(folder) / "probe.o"
        source.write_text(_PROBE, encoding="ascii")
        command = [str(toolkit.nvcc), "-ccbin", str(compiler.cxx), *nvcc_flags(wanted).split()]
        ran = subprocess.run(
            [*command, "-c", str(source), "-o", str(thing)], capture_output=True, text=True, errors="replace"
        )
        if ran.returncode:
            return first_errors(ran.stderr + ran.stdout) or f"exit status {ran.returncode}"
        report = scan_file(thing)
        if isinstance(report, Unreadable):
            return report.reason
        missing = {code.sm for code in wanted.machine_code} - set(report.machine_code)
        return ", ".join(sorted(missing)) or None


def _compilers_for(toolkit: CudaToolkit) -> Iterator[HostCompiler]:
    """Those that the toolkit accepts by its own header, in the order in which they were found."""
    row = load().toolkit(toolkit.version)
    for compiler in find_host_compilers():
        if compiler.family != "gcc" or row is None or compiler.major <= row.gcc_max:
            yield compiler


def _installed(environment: EnvironmentFacts, wish: ToolkitWish) -> tuple[CudaToolkit, ...]:
    """Toolkits that are here, torch's own minor or the nearest below it before newer ones."""
    sites = map(Path, (*environment.site_packages, *environment.paths))
    # Those that a person brought by one of `bringup toolkit install`'s plans lie beside bringup's own.
    brought = (toolkit_at(folder, "bringup") for folder in (state.home() / "toolkits").glob("c*-*"))
    found = (*(row for row in brought if row), *find_toolkits(Path(environment.root), sites))
    if not wish.torch_cuda:
        return found
    torch = _number(wish.torch_cuda)
    return tuple(sorted(found, key=lambda row: (row.number > torch, abs(row.number[1] - torch[1]))))


def _candidates(
    environment: EnvironmentFacts,
    wish: ToolkitWish,
    trouble: list[BringupError],
    on_line: Callable[[str], None] | None,
) -> Iterator[CudaToolkit]:
    if wish.where not in (None, "wheels", "system"):
        given = toolkit_at(Path(wish.where).expanduser().absolute(), "system")
        if given is None:
            raise BringupError("no-toolkit-there", exit_code=2, path=wish.where)
        yield given
        return
    here = _installed(environment, wish)
    if wish.where != "system":
        yield from (row for row in here if row.origin == "environment")
        version = version_for_wheels(wish)
        stored = find_in_store(version) if version else None
        if stored:
            yield stored
        elif version:
            try:
                yield install_into_store(version, wish.source, on_line)
            except BringupError as error:
                if error.id not in UNREACHABLE or wish.where == "wheels":
                    raise
                trouble.append(error)
    if wish.where != "wheels":
        yield from (row for row in here if row.origin != "environment")


def choose_toolkit(
    environment: EnvironmentFacts, wish: ToolkitWish, on_line: Callable[[str], None] | None = None
) -> ToolkitChoice:
    """The first candidate that fits torch, driver and chips, and compiles a kernel here.

    Raises:
        BringupError: `no-host-compiler`; `toolkit-lacks-architecture` where that is what is wrong with the
            only ones; `no-cuda-toolkit` otherwise, with what was tried and how to get one.
    """
    if not find_host_compilers():
        raise BringupError("no-host-compiler")
    rejected: list[RejectedToolkit] = []
    trouble: list[BringupError] = []
    last_lack: BringupError | None = None
    for toolkit in _candidates(environment, wish, trouble, on_line):
        name = f"CUDA {toolkit.release} ({toolkit.root})"
        against = _unfit(toolkit, wish)
        if against:
            rejected.append(RejectedToolkit(name, *against))
            if against[0] == "lacks-architecture":
                last_lack = _lack(wish, toolkit)
            continue
        architectures = architectures_for(wish.wanted, toolkit)
        said = "–"
        for compiler in _compilers_for(toolkit):
            said = _try_to_compile(toolkit, compiler, architectures) or ""
            if not said:
                return ToolkitChoice(toolkit, compiler, architectures, tuple(rejected))
        rejected.append(RejectedToolkit(name, "does-not-compile", said))
    if last_lack is not None and all(row.reason == "lacks-architecture" for row in rejected):
        raise last_lack
    if trouble and not rejected:
        raise trouble[0]
    raise _no_toolkit(wish, rejected)


def _lack(wish: ToolkitWish, toolkit: CudaToolkit) -> BringupError | None:
    try:
        architectures_for(wish.wanted, toolkit)
    except BringupError as error:
        return error
    return None


def _no_toolkit(wish: ToolkitWish, rejected: Sequence[RejectedToolkit]) -> BringupError:
    chips = ", ".join(chip.sm for chip in wish.wanted.chips)
    serving = [row.version for row in load().toolkits if _serves(row.version, wish.wanted)]
    if not serving:
        return BringupError("no-cuda-for-architecture", exit_code=2, chips=chips)
    version = wish.torch_cuda or serving[-1]
    return NoToolkit(rejected, version, chips)
