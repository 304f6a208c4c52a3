"""Compilers on this machine: CUDA toolkits, host compilers, CMake, ninja. Each is asked, none is guessed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.version import InvalidVersion, Version

from bringup.binaries.architectures import Architecture
from bringup.catalog import load

Origin = Literal["environment", "bringup", "system"]

_NVCC = "nvcc.exe" if os.name == "nt" else "nvcc"
_RELEASE = re.compile(r"release (\d+\.\d+), V([\d.]+)")
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class CudaToolkit:
    """A toolkit with a compiler that answers.

    Attributes:
        root: what CUDA_HOME would name. `nvcc`: its real program, not a wrapper around it.
        version: "13.0"; `release`: "13.0.88".
        architectures: what it makes machine code for.
        origin: where it lies: in the target environment, in bringup's own store, elsewhere on the system.
    """

    root: Path
    nvcc: Path
    version: str
    release: str
    architectures: tuple[Architecture, ...]
    origin: Origin

    @property
    def number(self) -> tuple[int, int]:
        """(13, 0)."""
        major, minor = self.version.split(".")
        return int(major), int(minor)

    @property
    def libraries(self) -> Path:
        """The folder of its libraries."""
        return next((self.root / name for name in ("lib64", "lib") if (self.root / name).is_dir()), self.root)


@dataclass(frozen=True)
class HostCompiler:
    """A C++ compiler that nvcc can drive, and the C compiler beside it."""

    cxx: Path
    cc: Path
    family: Literal["gcc", "clang"]
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


def _answer(*command: str | Path, timeout: float = 60) -> str | None:
    """Standard output and error of a program; None if it does not run or fails."""
    try:
        ran = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=os.environ | {"LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout + ran.stderr if ran.returncode == 0 else None


def _real_program(nvcc: Path) -> Path:
    """Distributions put a script or link on PATH; the compiler itself says where it lies."""
    said = _answer(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull) or ""
    here = re.search(r"_HERE_=(.+)", said)
    if here and (Path(here[1].strip()) / _NVCC).is_file():
        return Path(here[1].strip()) / _NVCC
    return nvcc.resolve()


def _architectures(nvcc: Path, version: str) -> tuple[Architecture, ...]:
    """As the catalog has them (it knows the suffixed ones), else as the compiler lists them."""
    known = load().toolkit(version)
    names = known.architectures if known else (_answer(nvcc, "--list-gpu-code") or "").split()
    return tuple(sorted(Architecture.parse(name) for name in names if name.startswith("sm_")))


def toolkit_of(nvcc: Path, origin: Origin) -> CudaToolkit | None:
    """The toolkit that a compiler belongs to; None if it does not answer."""
    match = _RELEASE.search(_answer(nvcc, "--version") or "")
    if not match:
        return None
    real = _real_program(nvcc)
    return CudaToolkit(real.parent.parent, real, match[1], match[2], _architectures(real, match[1]), origin)


def toolkit_at(root: Path, origin: Origin) -> CudaToolkit | None:
    """The toolkit in a folder; None if there is none."""
    nvcc = root / "bin" / _NVCC
    return toolkit_of(nvcc, origin) if nvcc.is_file() else None


def _candidates(environment: Path | None, sites: Iterable[Path]) -> Iterator[tuple[Path, Origin]]:
    for site in sites:
        for root in sorted((site / "nvidia").glob("cu*"), reverse=True):
            yield root / "bin" / _NVCC, "environment"
    if environment is not None:
        yield environment / "bin" / _NVCC, "environment"
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            yield Path(os.environ[name]) / "bin" / _NVCC, "system"
    found = shutil.which("nvcc")
    if found:
        yield Path(found), "system"
    for root in sorted(Path("/usr/local").glob("cuda*"), reverse=True):
        yield root / "bin" / _NVCC, "system"
    if Path("/opt/cuda/bin").is_dir():
        yield Path("/opt/cuda/bin") / _NVCC, "system"


def find_toolkits(environment: Path | None = None, sites: Iterable[Path] = ()) -> tuple[CudaToolkit, ...]:
    """Toolkits in the environment first, then the system's; each once.

    Args:
        environment: prefix of the target environment (conda keeps nvcc in its `bin`).
        sites: its site-packages (the wheels unpack into `nvidia/cu13`).
    """
    found: dict[Path, CudaToolkit] = {}
    for nvcc, origin in _candidates(environment, sites):
        if nvcc.is_file():
            toolkit = toolkit_of(nvcc, origin)
            if toolkit:
                found.setdefault(toolkit.root.resolve(), toolkit)
    return tuple(found.values())


def _compiler(cxx: Path, cc: Path) -> HostCompiler | None:
    first = (_answer(cxx, "--version") or "").splitlines()[:1]
    number = _answer(cxx, "-dumpfullversion", "-dumpversion") or ""
    if not first or not _VERSION.match(number.strip() + ".0"):
        return None
    family: Literal["gcc", "clang"] = "clang" if "clang" in first[0] else "gcc"
    return HostCompiler(cxx, cc, family, number.strip())


def find_host_compilers() -> tuple[HostCompiler, ...]:
    """CXX as the user set it, then g++, then versioned ones (newest first), then clang++."""
    pairs = [("g++", "gcc"), *((f"g++-{n}", f"gcc-{n}") for n in range(20, 5, -1)), ("clang++", "clang")]
    wished = os.environ.get("CXX", "").split()
    if len(wished) == 1:
        pairs.insert(0, (wished[0], os.environ.get("CC") or "cc"))
    found: dict[str, HostCompiler] = {}
    for names in pairs:
        programs = [shutil.which(name) for name in names]
        if programs[0] and programs[1]:
            compiler = _compiler(Path(programs[0]), Path(programs[1]))
            if compiler:
                found.setdefault(str(compiler.cxx.resolve()), compiler)
    return tuple(found.values())


def link_time_optimisation_works(compiler: HostCompiler) -> bool:
    """Whether `-flto` gives a library that still exports its function: without gcc's linker plugin the
    link fails, or the linker drops what it cannot see."""
    with tempfile.TemporaryDirectory(prefix="bringup-") as folder:
        source, thing = Path(folder) / "probe.cc", Path(folder) / "probe.o"
        library = Path(folder) / "probe.so"
        source.write_text('extern "C" int bringup_probe() { return 7; }\n', encoding="ascii")
        flags = ("-flto", "-fno-fat-lto-objects", "-fPIC")
        if _answer(compiler.cxx, *flags, "-c", source, "-o", thing) is None:
            return False
        if _answer(compiler.cxx, *flags, "-shared", thing, "-o", library) is None:
            return False
        return b"\0bringup_probe\0" in library.read_bytes()


def tool_version(name: str) -> Version | None:
    """Version of `cmake` or `ninja` on PATH; None where it is missing."""
    program = shutil.which(name)
    match = _VERSION.search(_answer(program, "--version") or "") if program else None
    try:
        return Version(match[0]) if match else None
    except InvalidVersion:
        return None


def has_python_headers(python: Path) -> bool:
    """Whether extensions can be compiled for an interpreter: Debian keeps Python.h in a package apart."""
    question = "import sysconfig; print(sysconfig.get_path('include'))"
    folder = (_answer(python, "-I", "-c", question) or "").strip()
    return bool(folder) and (Path(folder) / "Python.h").is_file()
