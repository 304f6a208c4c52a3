"""CUDA 13 from wheels: NVIDIA's `cuda-toolkit` distribution pins the parts of each release to one another.

The wheels unpack into `nvidia/cu13/{bin,include,lib,nvvm}`. Two things that an installed toolkit has are
missing there and laid here: `lib64`, where nvcc and build systems look, and libraries without a version in
their name (`libcudart.so`), for which `-lcudart` asks.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock
from packaging.utils import canonicalize_name

from bringup import state
from bringup.errors import BringupError
from bringup.facts.environment import read_environment
from bringup.facts.toolchains import CudaToolkit, toolkit_at
from bringup.plan.resolve import explain_installer_failure
from bringup.steps.toolkit.pip import Source, pip_command, pip_environment, pip_for, pip_install

# Extras of `cuda-toolkit`: what compiles, and what torch's own headers include beside it.
COMPILER = ("nvcc", "nvvm", "crt", "cudart", "cccl", "profiler")
LIBRARIES = ("cublas", "cusparse", "cusolver", "curand")

MANIFEST = "bringup-toolkit.json"
_NEEDED_SPACE = 700 << 20
_VERSIONED = re.compile(r"(lib[\w+-]+\.so)\.\d+")


@dataclass(frozen=True)
class Installed:
    """What an installation added, as its manifest has it: this and nothing else is removed again.

    Attributes:
        root: the tree with bin, include, lib, nvvm. environment: None of bringup's own store.
        packages: (name, version) that were added; links: relative to `root`.
    """

    version: str
    root: str
    environment: str | None
    packages: tuple[tuple[str, str], ...]
    links: tuple[str, ...]


def store(version: str) -> Path:
    """Folder of bringup's own copy of one release."""
    return state.home() / "toolkits" / version


def read_manifest(root: Path) -> Installed | None:
    """What was installed into a tree; None where it was not installed by bringup."""
    try:
        document = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        packages = tuple((str(name), str(version)) for name, version in document.pop("packages"))
        return Installed(packages=packages, links=tuple(document.pop("links")), **document)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def installed_toolkits() -> tuple[Installed, ...]:
    """Those in bringup's own store."""
    folder = state.home() / "toolkits"
    rows = (read_manifest(root) for root in sorted(folder.glob("*/nvidia/cu*")))
    return tuple(row for row in rows if row)


def find_in_store(version: str) -> CudaToolkit | None:
    """bringup's own copy of a release; None if it is not there or does not answer."""
    for root in sorted(store(version).glob("nvidia/cu*")):
        toolkit = toolkit_at(root, "bringup") if read_manifest(root) else None
        if toolkit:
            return toolkit
    return None


def _lay_links(root: Path) -> tuple[str, ...]:
    """`lib64` and unversioned library names. Returns what was added, relative to `root`."""
    added = []
    library = root / "lib"
    if library.is_dir() and not (root / "lib64").exists():
        (root / "lib64").symlink_to("lib", target_is_directory=True)
        added.append("lib64")
    for file in sorted(library.glob("lib*.so.*")):
        match = _VERSIONED.fullmatch(file.name)
        if match and not (library / match[1]).exists():
            (library / match[1]).symlink_to(file.name)
            added.append(f"lib/{match[1]}")
    return tuple(added)


def _requirement(version: str, parts: Sequence[str]) -> str:
    return f"cuda-toolkit[{','.join(parts)}]=={version}.*"


def _check_version(version: str) -> None:
    if not re.fullmatch(r"\d+\.\d+", version):
        raise BringupError("toolkit-version", exit_code=2, given=version)
    if int(version.split(".")[0]) < 13:
        raise BringupError("toolkit-not-as-wheels", exit_code=2, version=version)


def install_into_store(
    version: str, source: Source, on_line: Callable[[str], None] | None = None
) -> CudaToolkit:
    """Download and unpack the compiler of one release into bringup's own store, unless it is there.

    Args:
        version: "13.0".

    Raises:
        BringupError: `toolkit-version`, `toolkit-not-as-wheels`, a failed download, a full disk, or
            `toolkit-silent` when the compiler that came does not answer.
    """
    _check_version(version)
    found = find_in_store(version)
    if found is None:
        _install(store(version), version, COMPILER, source, on_line)
        found = find_in_store(version)
    if found is None:
        raise BringupError("toolkit-silent", path=store(version))
    return found


def install_libraries(version: str, source: Source, on_line: Callable[[str], None] | None = None) -> Path:
    """Headers and libraries of cuBLAS, cuSPARSE, cuSOLVER and cuRAND, for a torch that came without them."""
    _check_version(version)
    folder = store(f"{version}-libraries")
    _install(folder, version, LIBRARIES, source, on_line)
    return next(folder.glob("nvidia/cu*"))


def _install(
    folder: Path,
    version: str,
    parts: Sequence[str],
    source: Source,
    on_line: Callable[[str], None] | None,
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if any(read_manifest(root) for root in folder.glob("nvidia/cu*")):
            return
        for stale in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(stale, ignore_errors=True)  # Of an installation that was killed.
        _check_space(folder)
        # Beside the final name; an installation that is broken off leaves nothing under it.
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            arguments = ["--upgrade", "--target", str(partial), _requirement(version, parts)]
            log = state.home() / "toolkits" / "logs" / f"{folder.name}.log"
            pip_install(pip_command(), arguments, source, f"CUDA {version}", log, on_line)
            _complete(version, partial, folder)
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise BringupError("no-space", subject=f"CUDA {version}", path=folder) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _complete(version: str, partial: Path, final: Path) -> None:
    roots = sorted(partial.glob("nvidia/cu*"))
    if not roots:
        raise BringupError("toolkit-silent", path=final)
    packages = tuple(_distributions(partial))
    root = final / roots[0].relative_to(partial)
    manifest = Installed(version, str(root), None, packages, _lay_links(roots[0]))
    _write_manifest(roots[0], manifest)


def _write_manifest(root: Path, manifest: Installed) -> None:
    state.write_atomically(root / MANIFEST, json.dumps(asdict(manifest), indent=1) + "\n")


def _distributions(folder: Path) -> list[tuple[str, str]]:
    names = (path.name.removesuffix(".dist-info") for path in folder.glob("*.dist-info"))
    pairs = (name.rpartition("-") for name in names)
    return sorted((canonicalize_name(name), version) for name, _, version in pairs)


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < _NEEDED_SPACE:
        needed, here = round(_NEEDED_SPACE / 1e9, 1), round(free / 1e9, 1)
        raise BringupError("too-little-space", path=folder, free=here, needed=needed)


def install_into_environment(
    version: str, environment: Path, source: Source, on_line: Callable[[str], None] | None = None
) -> tuple[CudaToolkit, Installed]:
    """Add the compiler's wheels to an environment; packages that it has already stay as they are.

    Raises:
        BringupError: as `install_into_store`; `no-environment`.
    """
    _check_version(version)
    facts = read_environment(environment, scan=False)
    if facts.python.executable is None:
        raise BringupError("no-environment", exit_code=2, path=environment)
    command = pip_for(Path(facts.python.executable))
    if command is None:
        raise BringupError("no-pip", path=facts.root)
    _check_space(Path(facts.site_packages[0]))
    wanted = [
        (name, release)
        for name, release in _missing(command, version, source)
        # Newer ones than torch is pinned to would break torch; the metapackage itself pins the lot.
        if facts.distribution(name) is None and name != "cuda-toolkit"
    ]
    log = state.home() / "toolkits" / "logs" / f"{version}-into-{Path(facts.root).name}.log"
    if wanted:
        exact = [f"{name}=={release}" for name, release in wanted]
        pip_install(command, ["--no-deps", *exact], source, f"CUDA {version}", log, on_line)
    for site in facts.site_packages:
        for root in sorted(Path(site).glob("nvidia/cu*")):
            toolkit = toolkit_at(root, "environment")
            if toolkit is None:
                continue
            before = read_manifest(root)
            links = (*(before.links if before else ()), *_lay_links(root))
            packages = (*(before.packages if before else ()), *wanted)
            manifest = Installed(version, str(root), facts.root, packages, links)
            _write_manifest(root, manifest)
            return toolkit, manifest
    raise BringupError("toolkit-silent", path=facts.root)


def _missing(pip: Sequence[str], version: str, source: Source) -> list[tuple[str, str]]:
    """(name, version) of what pip would add for the whole toolkit."""
    with tempfile.TemporaryDirectory(prefix="bringup-") as folder:
        report = Path(folder) / "report.json"
        command = [*pip, "install", "--dry-run", "--quiet", f"--report={report}"]
        command += [*source.options, _requirement(version, COMPILER)]
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", env=pip_environment())
        if ran.returncode:
            raise explain_installer_failure(ran.stdout + ran.stderr, f"CUDA {version}")
        rows = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [(canonicalize_name(row["metadata"]["name"]), row["metadata"]["version"]) for row in rows]


def folder_size(folder: Path) -> int:
    """Bytes below a folder, links not followed."""
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            path = Path(parent) / file
            total += 0 if path.is_symlink() else path.stat().st_size
    return total
