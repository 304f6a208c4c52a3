"""Rules about what a distribution was built for: another torch or another CUDA."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from bringup.facts.environment import EnvironmentFacts, TorchFacts
from bringup.facts.environment_distributions import Distribution
from bringup.findings.model import Evidence, Examined, Finding
from bringup.findings.repairs import companion_fix, extension_fix, pip, torch_label

# Local version labels that publishers use: PyG and PyTorch3D "pt27cu128", "pt2.7.1cu128"; NATTEN
# "torch270cu128"; flash-attention "cu12torch2.7cxx11abiFALSE".
_TORCH_TAGS = (
    re.compile(r"(?:pt|torch)(?P<major>\d)\.(?P<minor>\d+)(?:\.\d+)?\.?(?P<build>cu\d+|cpu)?"),
    re.compile(r"torch(?P<major>\d)(?P<minor>\d+)\d(?P<build>cu\d+|cpu)"),
    re.compile(r"pt(?P<major>\d)(?P<minor>\d+)(?P<build>cu\d+|cpu)"),
)
_CUDA_TAG = re.compile(r"(?:^|[.+])(?P<build>cu\d{2,3}|cpu)(?:$|[.]|torch)")
_COMPANIONS = ("torchvision", "torchaudio", "torchtext", "torchdata")


def _evidence(torch: TorchFacts) -> Evidence:
    return Evidence(f"{torch.folder}/version.py", "version", torch.version)


def _installed(examined: Examined) -> tuple[EnvironmentFacts, TorchFacts] | None:
    """The environment and its torch, where there is one whose version can be read."""
    environment = examined.environment
    if environment is None or environment.torch is None:
        return None
    try:
        Version(environment.torch.version)
    except InvalidVersion:
        return None
    return environment, environment.torch


def _major(build: str) -> str:
    """The CUDA major of "cu128" or "cu12"; "cpu" as it is."""
    return build if build == "cpu" else build.removeprefix("cu")[:2]


def _contradiction(row: Distribution, torch: TorchFacts, compiled: bool) -> str | None:
    """What the distribution's local version tag says that torch denies, None if nothing."""
    local = (row.version or "").partition("+")[2]
    here, release = torch_label(torch), Version(torch.version).release[:2]
    tag = next((found for pattern in _TORCH_TAGS if (found := pattern.search(local))), None)
    cuda = _CUDA_TAG.search(local)
    build = (tag["build"] if tag else None) or (cuda["build"] if cuda else None)
    if tag and (int(tag["major"]), int(tag["minor"])) != release:
        return f"torch {tag['major']}.{tag['minor']}" + (f" {build}" if build else "")
    if build is None or build == here:
        return None
    if tag and tag["build"]:
        return f"torch {tag['major']}.{tag['minor']} {build}"
    if row.key in _COMPANIONS:
        return build
    # CUDA keeps its promises within a major version; the CPU build of an extension serves anywhere.
    return build if compiled and build != "cpu" and _major(build) != _major(here) else None


def local_version_contradiction(examined: Examined) -> Iterator[Finding]:
    """`+pt20cu118` beside torch 2.7+cu128: the wheel says itself that it is for another torch."""
    installed = _installed(examined)
    if installed is None:
        return
    environment, torch = installed
    extensions = {report.path for report in environment.binaries if report.torch_extension}
    for row in environment.distributions:
        if row.key == "torch":
            continue
        compiled = examined.catalog.extension(row.key) is not None or not extensions.isdisjoint(row.binaries)
        built = _contradiction(row, torch, compiled)
        if built is None:
            continue
        evidence = (Evidence(row.location, "Version", row.version or ""), _evidence(torch))
        parameters = {"name": row.name, "built": built, "torch": torch.version}
        companion = row.key in _COMPANIONS
        text = "RuntimeError: operator torchvision::nms does not exist" if row.key == "torchvision" else ""
        text = text or f"OSError: {row.key}: undefined symbol"
        fix = companion_fix(examined, row.key, torch) if companion else extension_fix(examined, row.key)
        yield Finding("local-version-contradiction", "error", row.key, evidence, text, fix, parameters)


def _wanted_torch(row: Distribution) -> Iterator[tuple[str, Requirement]]:
    for text in row.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.name == "torch" and requirement.specifier:
            yield text, requirement


def companions_of_another_release(examined: Examined) -> Iterator[Finding]:
    """torchvision and torchaudio name the torch that they were built for in their METADATA."""
    installed = _installed(examined)
    if installed is None:
        return
    environment, torch = installed
    public = Version(torch.version).public
    for row in environment.distributions:
        if row.key not in _COMPANIONS:
            continue
        for text, requirement in _wanted_torch(row):
            if requirement.specifier.contains(public, prereleases=True):
                continue
            evidence = (Evidence(row.location, "Requires-Dist", text), _evidence(torch))
            wants = str(requirement.specifier)
            parameters = {"name": row.name, "wants": wants, "torch": torch.version}
            error = "RuntimeError: operator torchvision::nms does not exist"
            if row.key != "torchvision":
                error = f"OSError: {row.key}: undefined symbol"
            fix = companion_fix(examined, row.key, torch)
            yield Finding("companion-of-another-release", "error", row.key, evidence, error, fix, parameters)


def cuda_companion_beside_cpu_torch(examined: Examined) -> Iterator[Finding]:
    """A CUDA torchvision beside a CPU torch does not import."""
    installed = _installed(examined)
    if installed is None or installed[1].cuda is not None or installed[1].hip is not None:
        return
    environment, torch = installed
    for row in environment.distributions:
        if row.key not in ("torchvision", "torchaudio"):
            continue
        mine = [report for report in environment.binaries if report.path in row.binaries]
        report = next((r for r in mine if r.has_device_code or r.cuda_runtime), None)
        if report is None:
            continue
        library = report.cuda_runtime.library if report.cuda_runtime else None
        carried = " ".join(report.machine_code) or library or "CUDA"
        evidence = (Evidence(report.path, "machine code", carried), _evidence(torch))
        parameters = {"name": row.name, "built": "CUDA", "torch": torch.version}
        error = "RuntimeError: operator torchvision::nms does not exist"
        if row.key != "torchvision":
            error = f"OSError: {library or 'libcudart.so'}: cannot open shared object file"
        fix = companion_fix(examined, row.key, torch)
        yield Finding("built-for-another-torch", "error", row.key, evidence, error, fix, parameters)


def _recorded_build(path: Path) -> tuple[str, str | None] | None:
    """(torch, CUDA "12.8") that xFormers' own record names; None where there is none."""
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["version"]
        built = str(recorded["torch"])
        Version(built)
        number = str(recorded.get("cuda") or "")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return built, f"{int(number) // 100}.{int(number) % 100}" if number.isdigit() else None


def xformers_recorded_build(examined: Examined) -> Iterator[Finding]:
    """xFormers writes what it was built for into `cpp_lib.json`."""
    installed = _installed(examined)
    row = installed[0].distribution("xformers") if installed else None
    if installed is None or row is None:
        return
    torch = installed[1]
    path = Path(row.site) / "xformers" / "cpp_lib.json"
    recorded = _recorded_build(path)
    if recorded is None:
        return
    built, cuda = recorded
    same = Version(built).release == Version(torch.version).release
    # Within a CUDA major it loads: xFormers 0.0.20 (cu118) was the companion of torch 2.0.1 (cu117).
    majors = {text.split(".")[0] if text else None for text in (cuda or torch.cuda, torch.cuda)}
    if same and len(majors) == 1:
        return
    recorded_cuda = Evidence(str(path), "version.cuda", cuda or "none")
    evidence = (Evidence(str(path), "version.torch", built), recorded_cuda, _evidence(torch))
    parameters = {"name": "xFormers", "built": f"torch {built}", "torch": torch.version}
    error = "xFormers can't load C++/CUDA extensions"
    fix = f"{pip(examined)} uninstall -y xformers"
    yield Finding("built-for-another-torch", "error", "xformers", evidence, error, fix, parameters)
