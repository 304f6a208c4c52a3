"""Check the catalog's torch rows against the published wheels.

By default only METADATA is read, through `pip install --dry-run --report`: Python range, CUDA, companion.
With --download the wheels themselves are fetched (x86_64's, and aarch64's where there is one), one at a time,
scanned container by container and deleted.
Exit status 1 on a difference, 2 where a wheel could not be had.

Usage: python scripts/check_catalog.py [--download] [--index-builds] [VERSION ...]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from bringup.binaries.examine import examine
from bringup.binaries.model import BinaryReport
from bringup.binaries.source import Source
from bringup.binaries.zip_archive import open_member, open_zip
from bringup.catalog import Catalog, load
from bringup.catalog.schema import TorchBuild

PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux1")
CUDA_PINS = (
    re.compile(r"nvidia-cuda-runtime(?:-cu\d+)?\s*\(?==\s*(\d+\.\d+)"),
    re.compile(r"cuda-toolkit(?:\[[^\]]*\])?\s*\(?==\s*(\d+\.\d+)"),
)
CUDA_LIBRARY = re.compile(r"torch/lib/libtorch_cuda(_cu|_cpp)?\.so")
PYTHONS = ("3.10", "3.11", "3.12", "3.9")


@dataclass(frozen=True)
class Difference:
    """One field of one row that the wheel contradicts."""

    field: str
    catalog: str
    wheel: str


class NotPublishedError(Exception):
    """No index that pip is configured for has such a wheel."""


def _python_of(build: TorchBuild) -> str:
    return next(python for python in PYTHONS if SpecifierSet(build.python).contains(python))


def _target(python: str, machine: str = "x86_64") -> list[str]:
    platforms = [word for platform in PLATFORMS for word in ("--platform", f"{platform}_{machine}")]
    return ["--no-deps", "--only-binary=:all:", "--python-version", python, *platforms]


def _pip(words: Sequence[str], index: str | None) -> None:
    at = ["--index-url", index] if index else []
    command = [sys.executable, "-m", "pip", *words, *at, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise NotPublishedError(lines[-1] if lines else f"pip ended with {done.returncode}")


def metadata(name: str, version: str, python: str, index: str | None = None) -> dict[str, Any]:
    """METADATA of a wheel as pip reports it; downloads only what pip needs to read it.

    Raises:
        NotPublishedError: pip finds no such wheel.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = ["install", "--dry-run", "--ignore-installed", "--target", str(Path(folder) / "nowhere")]
        _pip([*words, "--report", str(report), *_target(python), f"{name}==={version}"], index)
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))["install"][0]["metadata"]
    return found


def cuda_of(requirements: Sequence[str]) -> str | None:
    """The CUDA release that a torch wheel's requirements pin, None for a CPU build."""
    matches = (pattern.match(line) for line in requirements for pattern in CUDA_PINS)
    return next((match[1] for match in matches if match), None)


def check_metadata(build: TorchBuild) -> Iterator[Difference]:
    """Differences between a row and METADATA of its wheel and its torchvision's."""
    python = _python_of(build)
    label = build.version if build.index is None else f"{build.version}+{build.local}"
    found = metadata("torch", label, python, build.index)
    if build.index is None or build.cuda is None:
        cuda = cuda_of(found.get("requires_dist", []))
        if cuda != build.cuda:
            yield Difference("cuda", str(build.cuda), str(cuda))
    wanted = SpecifierSet(found["requires_python"])
    lowest = re.search(r">=(\d+\.\d+)", build.python)
    if lowest and not wanted.contains(f"{lowest[1]}.99"):
        yield Difference("python", build.python, str(wanted))
    if build.index is None and build.torchvision:
        requirements = metadata("torchvision", build.torchvision, python).get("requires_dist", [])
        pins = [match[1] for line in requirements if (match := re.match(r"torch\s*\(?==\s*([\d.]+)", line))]
        if pins and pins != [build.version]:
            yield Difference("torchvision", build.version, pins[0])


def _examined(archive: zipfile.ZipFile, source: Source, name: str) -> BinaryReport:
    with open_member(archive, source, archive.getinfo(name)) as inside:
        return examine(inside, name)


def _code(report: BinaryReport) -> int:
    return len(report.containers)


def check_binaries(build: TorchBuild) -> Iterator[Difference]:
    """Differences between a row's architectures and the CUDA libraries of its wheels for Linux."""
    label = build.version if build.index is None else f"{build.version}+{build.local}"
    machines = [name.removeprefix("linux-") for name in build.platforms if name.startswith("linux-")]
    for machine in machines:
        with tempfile.TemporaryDirectory() as folder:
            target = _target(_python_of(build), machine)
            _pip(["download", "--dest", folder, *target, f"torch==={label}"], build.index)
            yield from compare(build, f"linux-{machine}", next(Path(folder).glob("*.whl")))


def compare(build: TorchBuild, platform: str, wheel: Path) -> Iterator[Difference]:
    """Differences between a row's architectures on a platform and those in a wheel's CUDA library."""
    with open_zip(wheel) as (archive, source):
        # Up to 1.13 the library was split, and the code stood in its second part.
        names = [name for name in archive.namelist() if CUDA_LIBRARY.fullmatch(name)]
        library = max((_examined(archive, source, name) for name in names), key=_code, default=None)
    if library is None or not library.images:
        yield Difference(f"cuda on {platform}", str(build.cuda), "no CUDA library with code")
        return
    # Where some containers are for one chip alone, most of them tell what the build was made for.
    commonest, _ = Counter(library.images).most_common(1)[0]
    code = library.machine_code_in_all or tuple(row.sm for row in commonest.machine_code)
    told = (
        ("machine code", build.machine_code_on(platform), code),
        ("PTX", build.ptx_on(platform), library.ptx),
    )
    for field, ours, theirs in told:
        if ours != theirs:
            yield Difference(f"{field} on {platform}", " ".join(ours) or "none", " ".join(theirs) or "none")


def check(catalog: Catalog, versions: Sequence[str], download: bool, index_builds: bool) -> int:
    """Print one line a row; the exit status."""
    status = 0
    for build in catalog.torch_builds:
        if (versions and build.version not in versions) or (build.index and not index_builds):
            continue
        try:
            differences = list(check_metadata(build))
            if download and build.cuda:
                differences += check_binaries(build)
        except NotPublishedError as reason:
            print(f"{build.version:8} {build.local:6} not to be had: {reason}", flush=True)
            status = max(status, 2) if status != 1 else 1
            continue
        verdict = "; ".join(f"{d.field}: catalog {d.catalog}, wheel {d.wheel}" for d in differences)
        print(f"{build.version:8} {build.local:6} {verdict or 'agrees'}", flush=True)
        if differences:
            status = 1
    return status


def main() -> int:
    """Parse the command line and check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="only these releases of torch")
    parser.add_argument("--download", action="store_true", help="read the wheels' binaries too")
    parser.add_argument("--index-builds", action="store_true", help="also builds of PyTorch's own index")
    options = parser.parse_args()
    return check(load(), options.versions, options.download, options.index_builds)


if __name__ == "__main__":
    sys.exit(main())
