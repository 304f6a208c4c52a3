"""PyTorch from its source: for a chip that no reachable build serves. Hours, not minutes; so checked first.

Needs (reported for one architecture): 2 to 4 hours, about 20 GB of disk, 32 GB of memory. With less memory
fewer compilers run at once; below what one of them wants, the plan is refused.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bringup.catalog import Catalog
from bringup.catalog.schema import Toolkit, TorchSource
from bringup.errors import BringupError
from bringup.facts.machine import MachineFacts
from bringup.facts.toolchains import find_host_compilers
from bringup.plan.model import Choice, Reason
from bringup.plan.steps import BuildTorch, FetchSource
from bringup.plan.torch_choice import TorchChoice, TorchQuestion

REPOSITORY = "https://github.com/pytorch/pytorch"
DISK = 20_000_000_000
_PER_JOB = 4_000_000_000  # nvcc on the largest attention kernels
_SECONDS_ON_16_JOBS = 3 * 3600
# Of pyproject.toml's [build-system], and what the finished package requires (setup.py).
BUILD_REQUIREMENTS = (
    "setuptools>=70.1",
    "wheel",
    "cmake>=3.27",
    "ninja",
    "numpy",
    "packaging",
    "pyyaml",
    "requests",
    "six",
)
RUN_REQUIREMENTS = (
    "filelock",
    "typing-extensions>=4.10",
    "sympy>=1.13.3",
    "networkx>=2.5.1",
    "jinja2",
    "fsspec>=0.8.5",
)


def _toolkit(question: TorchQuestion, catalog: Catalog) -> Toolkit:
    """The oldest toolkit that compiles for all chips and that the driver runs; wheels before others.

    Raises:
        BringupError: `chip-blocks`: no toolkit knows a chip; `driver-blocks`.
    """
    gpus = ", ".join(gpu.sm for gpu in question.gpus)
    asked = [row for row in catalog.toolkits if not question.cuda or row.version in question.cuda]
    knowing = [row for row in asked if all(catalog.compiles_for(row, gpu) for gpu in question.gpus)]
    if not knowing:
        raise BringupError("chip-blocks", gpus=gpus, range=question.allowed)
    running = [
        row
        for row in knowing
        if question.driver is None
        or Version(question.driver.version)
        >= Version(row.driver_windows if question.on_windows else row.driver_linux)
    ]
    if not running:
        easiest = knowing[0]
        needed = easiest.driver_windows if question.on_windows else easiest.driver_linux
        assert question.driver is not None
        raise BringupError(
            "driver-blocks", gpus=gpus, cuda=easiest.version, needed=needed, driver=question.driver.version
        )
    as_wheels = [row for row in running if Version(row.version) >= Version("13.0")]
    return min(as_wheels or running, key=lambda row: Version(row.version))


def _release(allowed: SpecifierSet, catalog: Catalog) -> TorchSource:
    fitting = [row for row in catalog.torch_sources if allowed.contains(row.version)]
    if not fitting:
        raise BringupError("torch-source-unknown", range=allowed)
    return max(fitting, key=lambda row: Version(row.version))


def _check_host(machine: MachineFacts) -> int:
    """Number of jobs that memory and cores allow.

    Raises:
        BringupError: `torch-source-disk`, `torch-source-memory`, `no-host-compiler`, `no-git`.
    """
    host = machine.host
    if machine.disk.free < DISK:
        raise BringupError("torch-source-disk", needed=DISK // 10**9, free=round(machine.disk.free / 1e9, 1))
    if host.memory_total < 2 * _PER_JOB:
        found = round(host.memory_total / 1e9, 1)
        raise BringupError("torch-source-memory", needed=2 * _PER_JOB // 10**9, found=found)
    if not find_host_compilers():
        raise BringupError("no-host-compiler")
    if shutil.which("git") is None:
        raise BringupError("no-git")
    return max(1, min(host.cores, int(host.memory_total * 0.9) // _PER_JOB))


def plan_source_build(
    question: TorchQuestion, machine: MachineFacts, catalog: Catalog, why: str
) -> TorchChoice:
    """Choose release, toolkit and number of jobs.

    Args:
        why: the reason's id: "torch-source-asked" or "torch-source-no-wheel".

    Raises:
        BringupError: what `_toolkit`, `_release` and `_check_host` raise; `gpu-required` without a chip.
    """
    if not question.gpus:
        raise BringupError("gpu-required", recipe="torch")
    toolkit, release = _toolkit(question, catalog), _release(question.allowed, catalog)
    jobs = _check_host(machine)
    version = Version(f"{release.version}+cu{toolkit.version.replace('.', '')}")
    source = FetchSource(
        id="source-torch",
        repository=REPOSITORY,
        commit=release.commit,
        recursive=True,
        licence="BSD-3-Clause",
    )
    step = BuildTorch(
        id="build-torch",
        source=source,
        version=str(version),
        cuda=toolkit.version,
        architectures=tuple(gpu.sm for gpu in question.gpus),
        jobs=jobs,
        memory=2 * _PER_JOB,
        disk=DISK,
    )
    hours = round(_SECONDS_ON_16_JOBS * 16 / jobs / 3600, 1)
    served = ", ".join(step.architectures)
    parameters: dict[str, str | int | float | bool] = {
        "gpus": served,
        "cuda": toolkit.version,
        "jobs": jobs,
        "hours": hours,
        "memory": round(machine.host.memory_total / 1e9),
    }
    choice = Choice(subject="torch", chosen=f"{version} (source)", why=Reason(id=why, parameters=parameters))
    return TorchChoice(version, toolkit.version, None, choice, build=step, build_seconds=int(hours * 3600))


def stand_in(version: Version, folder: Path) -> Path:
    """A wheel of metadata alone, so that the resolver knows what the torch to come will require."""
    name = f"torch-{version}"
    requires = "".join(f"Requires-Dist: {text}\n" for text in RUN_REQUIREMENTS)
    files = {
        f"{name}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n{requires}",
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}.dist-info/RECORD": "",
    }
    wheel = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    return wheel
