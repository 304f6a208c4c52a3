"""Where a build runs: its requirements apart from the user's packages, torch showing through."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from bringup import state
from bringup.errors import BringupError
from bringup.facts.environment import EnvironmentFacts
from bringup.facts.interpreters import ask
from bringup.facts.toolchains import tool_version
from bringup.plan.resolve import explain_environment_failure, show_through
from bringup.steps.building.project import BuildProject
from bringup.steps.processes import run_logged
from bringup.steps.target import VirtualEnvironment
from bringup.steps.toolkit.pip import Source, pip_for, pip_install

# These come from the target, whatever `[build-system]` says: the build must be against what will run it.
_FROM_TARGET = {"torch", "torchvision", "torchaudio", "triton"}
_OLDEST_CMAKE = Version("3.24")
_NINJA = "ninja>=1.11"
# torch before 2.3 asks pkg_resources for `packaging`, which setuptools 70 took away; 82 took pkg_resources.
_PACKAGING_TORCH = Version("2.3")


@dataclass(frozen=True)
class Isolation:
    """A build environment.

    Attributes:
        pip: the words that start a pip that works on it.
        shown: folders of the target's packages that show through.
    """

    target: VirtualEnvironment
    pip: tuple[str, ...]
    shown: tuple[str, ...]


def build_requirements(project: BuildProject, environment: EnvironmentFacts) -> list[str]:
    """What to install: the project's own list without torch, and the tools that it finds missing here."""
    listed = [Requirement(row) for row in project.requires]
    kept = [row for row in listed if canonicalize_name(row.name) not in _FROM_TARGET or not environment.torch]
    names = {canonicalize_name(row.name) for row in kept}
    wanted = [str(row) for row in kept]
    if project.kind == "setuptools":
        wanted += [name for name in ("setuptools", "wheel") if name not in names]
        bound = _setuptools_bound(project, environment)
        if bound:
            # A second line about the same name: pip takes what both allow.
            wanted.append(f"setuptools{bound}")
    by_cmake = project.uses_cmake or project.kind in ("cmake", "scikit-build-core")
    if by_cmake and "cmake" not in names and not _good_cmake(project):
        wanted.append("cmake")
    if (by_cmake or project.uses_torch) and "ninja" not in names and tool_version("ninja") is None:
        wanted.append(_NINJA)
    wanted += [name for name in project.cmake_packages if name not in names and project.kind == "cmake"]
    return wanted


def _good_cmake(project: BuildProject) -> bool:
    here = tool_version("cmake")
    return here is not None and here >= max(_OLDEST_CMAKE, project.cmake_minimum or _OLDEST_CMAKE)


def _setuptools_bound(project: BuildProject, environment: EnvironmentFacts) -> str:
    torch = environment.torch.version if environment.torch and project.uses_torch else ""
    match = re.match(r"\d+\.\d+", torch)
    if match and Version(match[0]) < _PACKAGING_TORCH:
        return "<70"
    return "<82" if "pkg_resources" in project.text else ""


def isolate(project: BuildProject, environment: EnvironmentFacts, source: Source, log: Path) -> Isolation:
    """The environment for a project, made once for each set of requirements.

    Raises:
        BringupError: it cannot be made, or a requirement cannot be installed.
    """
    assert environment.python.executable is not None
    wanted = build_requirements(project, environment)
    # Builds against torch see what is beside it; so do those that never said what they need.
    if project.uses_torch or project.backend.endswith("__legacy__") or source.offline:
        shown = (*environment.site_packages, *environment.paths)
    else:
        shown = ()
    if source.offline:
        wanted = [row for row in wanted if not _satisfied(row, environment)]
    document = [environment.python.executable, environment.python.version, sorted(wanted), shown]
    mark = hashlib.sha256(json.dumps(document).encode()).hexdigest()[:16]
    store = state.cache() / "build-environments"
    store.mkdir(parents=True, exist_ok=True)
    # Scripts of an environment name it by its absolute path: the one that lasts, not a link's.
    folder = store.resolve() / mark
    target = VirtualEnvironment(folder / "venv")
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            _make(target, environment, log, "--without-pip")
            if pip_for(target.python) is None:
                _make(target, environment, log)
            pip = pip_for(target.python)
            if pip is None:
                raise BringupError("no-pip", path=environment.root)
            if wanted:
                pip_install(pip, ["--upgrade", *wanted], source, project.name, log)
            show_through(target.root, shown)
            (folder / "complete").touch()
        pip = pip_for(target.python)
    assert pip is not None
    return Isolation(target, tuple(pip), shown)


def _satisfied(row: str, environment: EnvironmentFacts) -> bool:
    """Whether the target has it: without an index its copy must do."""
    requirement = Requirement(row)
    found = environment.distribution(requirement.name)
    return (
        found is not None
        and bool(found.version)
        and requirement.specifier.contains(found.version or "0", prereleases=True)
    )


def _make(target: VirtualEnvironment, environment: EnvironmentFacts, log: Path, *options: str) -> None:
    """An empty environment; without pip, since the one that serves bringup installs from outside."""
    python = environment.python.executable
    assert python is not None
    shutil.rmtree(target.root, ignore_errors=True)
    command = [python, "-I", "-m", "venv", *options, str(target.root)]
    outcome = run_logged(command, log)
    if outcome.code:
        interpreter = ask(python)
        if interpreter is None:
            raise BringupError("broken-environment", path=environment.root, text=outcome.tail[-300:])
        raise explain_environment_failure(outcome.tail, interpreter)


def install_dynamic_requirements(
    isolation: Isolation,
    project: BuildProject,
    tree: Path,
    variables: dict[str, str],
    source: Source,
    log: Path,
) -> None:
    """What the backend itself asks for (PEP 517, `get_requires_for_build_wheel`), such as cmake."""
    if project.kind in ("cmake", "setuptools"):
        return  # setuptools adds nothing to what `[build-system]` says; its hook would run setup.py twice.
    program = (
        "import importlib, json, sys\n"
        "sys.path[:0] = json.loads(sys.argv[2])\n"
        "module, _, name = sys.argv[1].partition(':')\n"
        "backend = importlib.import_module(module)\n"
        "for part in filter(None, name.split('.')): backend = getattr(backend, part)\n"
        "hook = getattr(backend, 'get_requires_for_build_wheel', lambda settings: [])\n"
        "print('\\n' + json.dumps(list(hook({}))))\n"
    )
    paths = json.dumps([str(tree / path) for path in project.backend_path])
    command = [str(isolation.target.python), "-c", program, project.backend, paths]
    ran = subprocess.run(
        command, cwd=tree, env=variables, capture_output=True, text=True, errors="replace", timeout=300
    )
    try:
        wanted = [str(row) for row in json.loads(ran.stdout.splitlines()[-1])]
    except (ValueError, IndexError, TypeError):
        return  # A backend that cannot be asked says why when it builds.
    named = [row for row in wanted if canonicalize_name(Requirement(row).name) not in _FROM_TARGET]
    if named:
        pip_install(isolation.pip, named, source, project.name, log)


def tools_first(variables: dict[str, str], folders: Iterable[Path]) -> dict[str, str]:
    """The same variables with these folders first on PATH."""
    path = os.pathsep.join([*map(str, folders), variables.get("PATH", os.defpath)])
    return variables | {"PATH": path}
