"""Rules about what a project's files choose of CUDA: an index of old builds, a list of architectures."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name
from packaging.version import Version

from bringup.binaries.compatibility import carries
from bringup.catalog import Catalog
from bringup.catalog.schema import TorchBuild
from bringup.facts.cuda_choices import ArchitectureChoice, TorchOrigin
from bringup.facts.project_requirements import Pin
from bringup.findings.kernel_images import NO_IMAGE
from bringup.findings.model import Evidence, Examined, Finding, NamedGpu, Severity
from bringup.findings.projects import allows, nearest_build, serving_builds
from bringup.findings.repairs import torch_build_fix

_ONE_GENCODE = re.compile(r"arch=compute_\d+[af]?,code=sm_\d+[af]?")
# A list as it stands between quotes: what may be put into a command of sed as it is.
_PLAIN_LIST = re.compile(r"[\w.+-]+(?:[; ,]+[\w.+-]+)*")


def _label(cuda: str) -> str:
    return "cu" + cuda.replace(".", "")


def _builds(catalog: Catalog, origin: TorchOrigin) -> list[TorchBuild]:
    """What an origin offers of torch, as far as the catalog knows."""
    builds = [row for row in catalog.torch_builds if row.local == _label(origin.cuda)]
    return [row for row in builds if origin.release in (None, row.version)] or builds


def _serves(catalog: Catalog, origin: TorchOrigin, gpu: NamedGpu) -> bool:
    """Whether builds for this CUDA can have code for the chip; of a CUDA that nobody knows it is believed."""
    builds = _builds(catalog, origin)
    if builds:
        return any(catalog.torch_runs_on(row, gpu.capability) for row in builds)
    oldest = min(catalog.toolkits, key=lambda row: Version(row.version))
    toolkit = catalog.toolkit(origin.cuda)
    if toolkit is None and Version(origin.cuda) < Version(oldest.version):
        toolkit = oldest
    return toolkit is None or catalog.compiles_for(toolkit, gpu.capability)


def _architectures(catalog: Catalog, origin: TorchOrigin) -> str:
    """What its builds carry; where none is known, what its toolkit can make."""
    builds, toolkit = _builds(catalog, origin), catalog.toolkit(origin.cuda)
    names = builds[0].machine_code + builds[0].ptx if builds else toolkit.architectures if toolkit else ()
    return " ".join(names) or "–"


def _line(origin: TorchOrigin) -> int:
    return origin.line


def torch_pins(pins: Iterable[Pin], file: str) -> list[Pin]:
    """torch's pins in the same file, else in any."""
    found = [pin for pin in pins if canonicalize_name(pin.requirement.name) == "torch"]
    return [pin for pin in found if pin.file == file] or found


def _is_newest(catalog: Catalog, origins: Sequence[TorchOrigin], pins: Sequence[Pin], gpu: NamedGpu) -> bool:
    """Whether pip takes a build of these origins that lacks the chip, although it looks elsewhere as well.

    It takes the highest version of all that it is offered, and 2.7.0+cu118 is higher than 2.7.0.
    """
    labels = {_label(origin.cuda) for origin in origins}
    offered = [row for row in catalog.torch_builds if not row.index or row.local in labels]
    allowed = [row for row in offered if all(allows(pin.requirement.specifier, row) for pin in pins)]
    if not allowed:
        return any(label in str(pin.requirement) for label in labels for pin in pins)
    taken = max(allowed, key=lambda row: (Version(row.version), bool(row.index), row.local))
    return taken.local in labels and not catalog.torch_runs_on(taken, gpu.capability)


def failing(
    examined: Examined, origins: Sequence[TorchOrigin], pins: Sequence[Pin], gpu: NamedGpu
) -> list[TorchOrigin]:
    """Of origins that are used together, with pins of torch, those that lead to a torch without the chip."""
    lacking = [row for row in origins if not _serves(examined.catalog, row, gpu)]
    pages = [row for row in lacking if row.release]
    alone = [row for row in origins if row.only and not row.release]
    if alone:
        # Of several that are asked for alone one is chosen at each place: one that serves is enough.
        return pages + (alone if all(row in lacking for row in alone) else [])
    beside = [row for row in lacking if not row.release]
    return pages + (beside if beside and _is_newest(examined.catalog, beside, pins, gpu) else [])


def origin_without_the_chip(examined: Examined) -> Iterator[Finding]:
    """An index, a page of wheels or a conda package whose CUDA is too old for the chip, or too new."""
    project = examined.project
    if project is None:
        return
    for _, rows in groupby(project.origins, key=lambda row: row.file):
        origins = list(rows)
        for gpu in examined.gpus:
            pins, serving = torch_pins(project.pins, origins[0].file), serving_builds(examined, gpu)
            # Where no torch serves the chip, no other index helps.
            for origin in sorted(failing(examined, origins, pins, gpu), key=_line) if serving else ():
                yield _origin_finding(examined, origin, gpu, serving)


def nearest_to_origin(
    examined: Examined, origin: TorchOrigin, pins: Sequence[Pin], serving: list[TorchBuild]
) -> TorchBuild:
    """Of the builds that serve, the one nearest to what would be taken from there."""
    builds = _builds(examined.catalog, origin)
    meant = [row for row in builds if all(allows(pin.requirement.specifier, row) for pin in pins)]
    oldest = min(Version(row.version) for row in examined.catalog.torch_builds)
    return nearest_build(serving, max((Version(row.version) for row in meant or builds), default=oldest))


def _origin_finding(
    examined: Examined, origin: TorchOrigin, gpu: NamedGpu, serving: list[TorchBuild]
) -> Finding:
    assert examined.project is not None
    nearest = nearest_to_origin(examined, origin, torch_pins(examined.project.pins, origin.file), serving)
    sm, place = gpu.capability.sm, f"{origin.file}:{origin.line}"
    evidence = (
        Evidence(origin.file, f"line {origin.line}", origin.text),
        Evidence("catalog", f"CUDA {origin.cuda}", _architectures(examined.catalog, origin)),
    )
    parameters = {"place": place, "origin": origin.text, "cuda": origin.cuda, "gpu": gpu.name, "sm": sm}
    parameters["nearest"] = f"{nearest.version}+{nearest.local}"
    error = f"{gpu.name} with CUDA capability {sm} is not compatible with the current PyTorch"
    fix = torch_build_fix(examined, nearest, gpu)
    return Finding("origin-without-this-chip", "error", place, evidence, error, fix, parameters)


def architectures_without_the_chip(examined: Examined) -> Iterator[Finding]:
    """A build file names the architectures to compile for, and none of them serves the chip."""
    project = examined.project
    for choice in project.architectures if project else ():
        for gpu in examined.gpus:
            listed = choice.architectures
            if carries(listed.machine_code, listed.ptx, gpu.capability):
                continue
            place = f"{choice.file}:{choice.line}"
            named = (*(row.sm for row in listed.machine_code), *(row.compute for row in listed.ptx))
            evidence = (
                Evidence(choice.file, f"line {choice.line}", choice.text),
                Evidence(choice.file, "architectures", " ".join(named)),
            )
            parameters = {"place": place, "named": " ".join(named), "gpu": gpu.name, "sm": gpu.capability.sm}
            fix = _build_fix(examined, choice, gpu)
            # What stands further down may be a part that is for other chips, and not needed.
            severity: Severity = "warning" if "/" in choice.file else "error"
            yield Finding(
                "architectures-without-this-chip", severity, place, evidence, NO_IMAGE, fix, parameters
            )


def _written_anew(choice: ArchitectureChoice, gpu: NamedGpu, when_used: bool) -> str | None:
    """A Dockerfile's list, or that of a file that compiles when it is used, with the chip."""
    if not when_used and "dockerfile" not in PurePosixPath(choice.file).name.lower():
        return None
    if _PLAIN_LIST.fullmatch(choice.text):
        return f"{choice.text}{';' if ';' in choice.text else ' '}{gpu.capability}"
    number = gpu.capability.number
    return f"arch=compute_{number},code=sm_{number}" if _ONE_GENCODE.fullmatch(choice.text) else None


def _build_fix(examined: Examined, choice: ArchitectureChoice, gpu: NamedGpu) -> str:
    """The command that writes the chip into the file, where nothing else would; else `bringup build`."""
    assert examined.project is not None
    root = Path(examined.project.root)
    if wanted := _written_anew(choice, gpu, when_used=choice.file in examined.project.runtime_builds):
        return f'sed -i {shlex.quote(f"{choice.line}s|{choice.text}|{wanted}|")} "{root / choice.file}"'
    folder = (root / choice.file).parent
    # A CMakeLists.txt further down is built by what stands at the top.
    if any((root / name).is_file() for name in ("setup.py", "pyproject.toml", "CMakeLists.txt")):
        folder = folder if (folder / "setup.py").is_file() else root
    return f'bringup build "{folder}" --gpu {gpu.capability.sm}'
