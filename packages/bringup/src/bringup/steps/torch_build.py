"""Compiling PyTorch itself in the new environment; a killed build goes on with what it had compiled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bringup.errors import BringupError
from bringup.facts.environment import read_environment
from bringup.facts.gpus import read_gpus
from bringup.facts.host import read_disk, read_host
from bringup.plan.steps import BuildTorch
from bringup.steps.building.architectures import choose_architectures
from bringup.steps.building.jobs import fewer_jobs
from bringup.steps.building.toolkit_choice import ToolkitChoice, ToolkitWish, choose_toolkit
from bringup.steps.installers import Installer
from bringup.steps.processes import run_logged
from bringup.steps.sources import Supplies, fetch_source
from bringup.steps.target import Target
from bringup.steps.toolkit.pip import Source

_KILLED = (-9, 137)


def check_host(step: BuildTorch, folder: Path) -> None:
    """What the plan promised, looked at again.

    Raises:
        BringupError: `torch-source-disk`, `torch-source-memory`.
    """
    free = read_disk(folder).free
    begun = (folder / "torch-source" / "build").is_dir()
    if free < step.disk and not begun:
        raise BringupError("torch-source-disk", needed=step.disk // 10**9, free=round(free / 1e9, 1))
    total = read_host().memory_total
    if total < step.memory:
        raise BringupError("torch-source-memory", needed=step.memory // 10**9, found=round(total / 1e9, 1))


def _variables(step: BuildTorch, target: Target, choice: ToolkitChoice, jobs: int) -> dict[str, str]:
    toolkit, compiler = choice.toolkit, choice.compiler
    made = target.variables()
    made["PATH"] = os.pathsep.join([str(toolkit.root / "bin"), made["PATH"]])
    return made | {
        "CUDA_HOME": str(toolkit.root),
        "CUDACXX": str(toolkit.nvcc),
        "CUDAHOSTCXX": str(compiler.cxx),
        "CC": str(compiler.cc),
        "CXX": str(compiler.cxx),
        "USE_CUDA": "1",
        "USE_CUDNN": "1",
        "BUILD_TEST": "0",
        "TORCH_CUDA_ARCH_LIST": choice.architectures.torch,
        "CMAKE_CUDA_ARCHITECTURES": choice.architectures.cmake,
        "CMAKE_PREFIX_PATH": str(target.root),
        "MAX_JOBS": str(jobs),
        "PYTORCH_BUILD_VERSION": step.version,
        "PYTORCH_BUILD_NUMBER": "1",
        "LC_ALL": "C.UTF-8",
    }


def build_torch(
    step: BuildTorch,
    target: Target,
    folder: Path,
    installer: Installer,
    supplies: Supplies,
    log: Path,
    on_line: Callable[[str], None],
) -> None:
    """Fetch, compile, install. Called again after a kill, it goes on in the same build tree.

    Raises:
        BringupError: `torch-source-…`, what fetching and the choice of a toolkit raise; `torch-build-failed`.
    """
    check_host(step, folder)
    tree = folder / "torch-source"
    if not tree.is_dir():
        fetch_source(step.source, tree, supplies, log, on_line)
    wanted = choose_architectures(None, step.architectures, read_gpus())
    environment = read_environment(target.root, scan=False)
    wish = ToolkitWish(wanted, step.cuda, None, None, Source(offline=supplies.offline))
    choice = choose_toolkit(environment, wish, on_line)
    wheels, jobs = folder / "torch-wheel", step.jobs
    words = [
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--verbose",
        "--wheel-dir",
        str(wheels),
        ".",
    ]
    while True:
        shutil.rmtree(wheels, ignore_errors=True)
        outcome = run_logged(
            [str(target.python), *words],
            log,
            environment=_variables(step, target, choice, jobs),
            directory=tree,
            on_line=on_line,
        )
        made = list(wheels.glob("torch-*.whl"))
        if outcome.code == 0 and made:
            break
        starved = outcome.code in _KILLED or "Killed signal terminated program" in outcome.tail
        if not starved or jobs == 1:
            tail = " · ".join(line.strip() for line in outcome.tail.strip().splitlines()[-3:])
            raise BringupError("torch-build-failed", text=tail or "–", log=log)
        jobs = fewer_jobs(jobs, None, read_host().memory_available)
        on_line(f"out of memory: going on with {jobs} jobs")
    installer.install_path(target, made[0], log, on_line)
