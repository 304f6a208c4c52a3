"""One attempt at a build: the variables that it runs under, the command, its log and its memory."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bringup.facts.environment import EnvironmentFacts
from bringup.steps.building.architectures import nvcc_flags
from bringup.steps.building.cache import is_source
from bringup.steps.building.isolation import Isolation
from bringup.steps.building.jobs import MemoryWatch
from bringup.steps.building.project import BuildProject, without_lto
from bringup.steps.building.toolkit_choice import ToolkitChoice
from bringup.steps.processes import run_logged

_LAST = 400_000
# ninja's «[3/10]» and make's «[ 42%]», as the display counts them.
_NINJA_COUNT = re.compile(r"\[(\d+)/(\d+)\]")
_MAKE_COUNT = re.compile(r"\[\s*(\d+)%\]")


@dataclass(frozen=True)
class Workshop:
    """The folders of one build; the source stands there as a copy.

    Attributes:
        tree: the copy. `objects`: CMake's build folder, kept between attempts. `output`: where a wheel or
            an installed tree appears. `links`: unversioned names of the environment's CUDA libraries.
    """

    root: Path

    @property
    def tree(self) -> Path:
        return self.root / "source"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def links(self) -> Path:
        return self.root / "links"


@dataclass(frozen=True)
class Settings:
    """What changes from attempt to attempt.

    Attributes:
        jobs: compilers at once. `append`: add the architectures to every call of nvcc, whatever the project
            says. `lto`: link-time optimisation as the project has it.
    """

    jobs: int
    append: bool
    lto: bool


@dataclass(frozen=True)
class Ran:
    """How an attempt ended. `peak`: bytes of the largest compiler; `together`: of all at one moment."""

    code: int
    log: str
    peak: int
    together: int


def copy_source(project: BuildProject, workshop: Workshop) -> None:
    """Copy the tree: the user's own stays as it is. git's data comes along where a version is read off it."""
    versioned = re.search(
        r"setuptools[-_]scm|versioneer|versioningit|hatch-vcs|pbr\b|git\s+describe", project.text
    )

    def leave_out(folder: str, names: list[str]) -> set[str]:
        top = Path(folder) == project.root
        return {name for name in names if not is_source(name) and not (versioned and top and name == ".git")}

    shutil.copytree(project.root, workshop.tree, symlinks=True, ignore=leave_out)


def turn_off_lto(project: BuildProject, workshop: Workshop) -> None:
    """In the copy, for compilers whose linker cannot do it: the module would lose its init function."""
    for name in project.lto:
        file = workshop.tree / name
        file.write_text(
            without_lto(file.read_text(encoding="utf-8", errors="surrogateescape")),
            encoding="utf-8",
            errors="surrogateescape",
        )


def package_folders(environment: EnvironmentFacts) -> list[Path]:
    """Where packages of the environment lie: its own, its base's, and those that it only shows."""
    return [Path(folder) for folder in (*environment.site_packages, *environment.paths)]


def lay_library_links(environment: EnvironmentFacts, extra: Path | None, workshop: Workshop) -> list[Path]:
    """`libcublas.so` and others for those CUDA wheels beside torch that have only `libcublas.so.13`.

    Returns:
        Folders of CUDA headers beside torch.
    """
    workshop.links.mkdir(parents=True, exist_ok=True)
    roots = [root for site in package_folders(environment) for root in sorted(site.glob("nvidia/*"))]
    if extra:
        roots.append(extra)
    for root in roots:
        for file in sorted(root.glob("lib/lib*.so.*")):
            link = workshop.links / (file.name.partition(".so.")[0] + ".so")
            if not link.exists() and not link.is_symlink():
                link.symlink_to(file)
    return [root / "include" for root in roots if (root / "include").is_dir()]


def variables(
    project: BuildProject,
    environment: EnvironmentFacts,
    isolation: Isolation,
    choice: ToolkitChoice,
    workshop: Workshop,
    includes: list[Path],
    settings: Settings,
) -> dict[str, str]:
    """The process environment of a build. What the user set about flags is kept, and added to."""
    toolkit, compiler = choice.toolkit, choice.compiler
    made = isolation.target.variables()
    made.pop("MAKEFLAGS", None)
    path = [toolkit.root / "bin", made["PATH"]]
    made |= {
        "PATH": os.pathsep.join(map(str, path)),
        "CUDA_HOME": str(toolkit.root),
        "CUDA_PATH": str(toolkit.root),
        "CUDAToolkit_ROOT": str(toolkit.root),
        "CUDACXX": str(toolkit.nvcc),
        "CUDAHOSTCXX": str(compiler.cxx),
        "CXX": str(compiler.cxx),
        "CC": str(compiler.cc),
        "NVCC_CCBIN": str(compiler.cxx),
        "TORCH_CUDA_ARCH_LIST": choice.architectures.torch,
        "CUDAARCHS": choice.architectures.cmake,
        "FORCE_CUDA": "1",
        "MAX_JOBS": str(settings.jobs),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(settings.jobs),
        # Several architectures at once in one nvcc would multiply what was counted as one job.
        "NVCC_THREADS": "1",
        "SKBUILD_BUILD_DIR": str(workshop.objects),
        "LC_ALL": "C.UTF-8",
    }
    _add_paths(made, "CPATH", includes)
    _add_paths(made, "LIBRARY_PATH", [workshop.links, toolkit.libraries])
    if settings.append:
        made["NVCC_APPEND_FLAGS"] = " ".join(
            filter(None, [os.environ.get("NVCC_APPEND_FLAGS", ""), nvcc_flags(choice.architectures)])
        )
    if project.cmake_minimum and project.cmake_minimum.release < (3, 5):
        made["CMAKE_POLICY_VERSION_MINIMUM"] = "3.5"
    _add_paths(made, "CMAKE_PREFIX_PATH", _cmake_prefixes(project, environment, isolation))
    options = [os.environ.get("CMAKE_ARGS", ""), *map(shlex.quote, cmake_options(choice, isolation))]
    made["CMAKE_ARGS"] = " ".join(filter(None, options))
    return made


def _cmake_prefixes(project: BuildProject, environment: EnvironmentFacts, isolation: Isolation) -> list[Path]:
    """Where torch, pybind11 and nanobind keep their CMake files; shown folders are no site of CMake's."""
    prefixes = []
    if environment.torch and project.uses_torch:
        prefixes.append(Path(environment.torch.folder) / "share" / "cmake")
    sites = [*isolation.target.root.glob("lib/python3*/site-packages"), *map(Path, isolation.shown)]
    candidates = (site / name for site in sites for name in ("pybind11/share/cmake", "nanobind"))
    return prefixes + [folder for folder in candidates if folder.is_dir()]


def _add_paths(made: dict[str, str], name: str, folders: list[Path]) -> None:
    known = [made[name]] if made.get(name) else []
    if folders or known:
        # An empty entry would mean the current folder to gcc.
        made[name] = os.pathsep.join([*map(str, folders), *known])


def cmake_options(choice: ToolkitChoice, isolation: Isolation) -> list[str]:
    """Cache entries for every CMake project."""
    python = isolation.target.python
    return [
        f"-DCMAKE_CUDA_ARCHITECTURES={choice.architectures.cmake}",
        f"-DCUDAToolkit_ROOT={choice.toolkit.root}",
        f"-DCUDA_TOOLKIT_ROOT_DIR={choice.toolkit.root}",
        f"-DPython_EXECUTABLE={python}",
        f"-DPython3_EXECUTABLE={python}",
        f"-DPYTHON_EXECUTABLE={python}",
    ]


def _as_count(line: str) -> str:
    """A line with its progress in the one form that the display knows."""
    percent = _MAKE_COUNT.search(line)
    return line if _NINJA_COUNT.search(line) or not percent else f"[{percent[1]}/100] {line}"


def run_attempt(
    project: BuildProject,
    isolation: Isolation,
    workshop: Workshop,
    made: dict[str, str],
    jobs: int,
    log: Path,
    on_line: Callable[[str], None] | None,
) -> Ran:
    """Run the project's own build. Everything that it says goes into `log`."""
    before = log.stat().st_size if log.exists() else 0
    tell = (lambda line: on_line(_as_count(line))) if on_line else None
    shutil.rmtree(workshop.output, ignore_errors=True)
    workshop.output.mkdir(parents=True)
    code = 0
    with MemoryWatch() as watch:
        for command in _commands(project, isolation, workshop, made, jobs):
            outcome = run_logged(command, log, environment=made, directory=workshop.tree, on_line=tell)
            code = outcome.code
            if code:
                break
    with log.open("rb") as stream:
        stream.seek(max(before, log.stat().st_size - _LAST))
        text = stream.read().decode("utf-8", errors="replace")
    return Ran(code, text, watch.largest, watch.together)


def _commands(
    project: BuildProject, isolation: Isolation, workshop: Workshop, made: dict[str, str], jobs: int
) -> list[list[str]]:
    if project.kind != "cmake":
        options = ["-v", "--no-build-isolation", "--no-deps", "--no-cache-dir", "--no-index"]
        return [[*isolation.pip, "wheel", *options, "-w", str(workshop.output), str(workshop.tree)]]
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=made["PATH"]) else []
    where = [f"-DCMAKE_INSTALL_PREFIX={workshop.output}", "-DCMAKE_BUILD_TYPE=Release"]
    options = [*where, *shlex.split(made["CMAKE_ARGS"])]
    objects = str(workshop.objects)
    return [
        ["cmake", "-S", str(workshop.tree), "-B", objects, *generator, *options],
        ["cmake", "--build", objects, "--config", "Release", "--parallel", str(jobs)],
        ["cmake", "--install", objects, "--config", "Release"],
    ]


def forget_objects(workshop: Workshop) -> None:
    """Remove what was compiled with other flags: ninja compares times, not the environment."""
    shutil.rmtree(workshop.objects, ignore_errors=True)
    for name in ("build", "dist"):
        shutil.rmtree(workshop.tree / name, ignore_errors=True)
