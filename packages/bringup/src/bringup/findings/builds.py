"""Rules about what a distribution was built for: another torch, CUDA, Python or system."""

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

_PYG_TAG = re.compile(r"pt(?P<major>\d)(?P<minor>\d+)(?P<build>cu\d+|cpu)")
_CUDA_TAG = re.compile(r"(?:^|[.+])(?P<build>cu\d{3}|cpu)(?:$|[.])")
_EXTENSION_TAG = re.compile(
    r"\.(?P<abi>cpython-(?P<minor>\d{2,3})t?)-[\w-]+\.so$|\.(?P<windows>cp\d{2,3}t?)-win\w+\.pyd$"
)
_COMPANIONS = ("torchvision", "torchaudio", "torchtext", "torchdata")


def _label(torch: TorchFacts) -> str:
    """torch's build in the spelling of local tags: "cu128" or "cpu"."""
    return "cu" + torch.cuda.replace(".", "") if torch.cuda else "cpu"


def _torch_evidence(torch: TorchFacts) -> Evidence:
    return Evidence(f"{torch.folder}/version.py", "version", torch.version)


def _reinstall(row: Distribution, environment: EnvironmentFacts, catalog_has_portable: bool) -> str:
    if catalog_has_portable:
        return f'portable-kernels install --shim {row.key.replace("-", "_")} --env "{environment.root}"'
    return f'bringup build {row.key} --env "{environment.root}"'


def _matching_companion(name: str, torch: TorchFacts, examined: Examined) -> str:
    """The command that installs the companion of the installed torch."""
    assert examined.environment is not None
    public = Version(torch.version).public
    rows = (row for row in examined.catalog.torch_builds if row.version == public)
    build = next(rows, None)
    version = getattr(build, name, None) if build else None
    pinned = f"{name}=={version}" if version else name
    label = _label(torch)
    index = f" --index-url https://download.pytorch.org/whl/{label}"
    return f'"{examined.environment.root}/bin/python" -m pip install {pinned}{index}'


def _contradiction(row: Distribution, torch: TorchFacts) -> str | None:
    """What the distribution's local version tag says that torch denies, None if nothing."""
    local = (row.version or "").partition("+")[2]
    tag = _PYG_TAG.search(local)
    release = Version(torch.version).release
    if tag:
        built = (int(tag["major"]), int(tag["minor"]))
        if built != release[:2] or tag["build"] != _label(torch):
            return f"torch {tag['major']}.{tag['minor']} {tag['build']}"
        return None
    cuda = _CUDA_TAG.search(local)
    if cuda and row.key in _COMPANIONS and cuda["build"] != _label(torch):
        return cuda["build"]
    return None


def local_version_contradiction(examined: Examined) -> Iterator[Finding]:
    """`+pt20cu118` beside torch 2.7+cu128: the wheel says itself that it is for another torch."""
    environment = examined.environment
    if environment is None or environment.torch is None:
        return
    for row in environment.distributions:
        built = _contradiction(row, environment.torch)
        if built:
            evidence = (
                Evidence(row.location, "Version", row.version or ""),
                _torch_evidence(environment.torch),
            )
            portable = examined.catalog.portable_replacement(row.key)
            parameters = {"name": row.name, "built": built, "torch": environment.torch.version}
            text = f"OSError: {row.key}: undefined symbol"
            fix = _reinstall(row, environment, portable)
            yield Finding("local-version-contradiction", "error", row.key, evidence, text, fix, parameters)


def companions_of_another_release(examined: Examined) -> Iterator[Finding]:
    """torchvision and torchaudio name the torch that they were built for in their METADATA."""
    environment = examined.environment
    if environment is None or environment.torch is None:
        return
    for row in environment.distributions:
        if row.key not in _COMPANIONS:
            continue
        for text in row.requires:
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            public = Version(environment.torch.version).public
            if requirement.name == "torch" and not requirement.specifier.contains(public, prereleases=True):
                evidence = (Evidence(row.location, "Requires-Dist", text), _torch_evidence(environment.torch))
                parameters = {
                    "name": row.name,
                    "wants": str(requirement.specifier),
                    "torch": environment.torch.version,
                }
                error = "RuntimeError: operator torchvision::nms does not exist"
                fix = _matching_companion(row.key, environment.torch, examined)
                yield Finding(
                    "companion-of-another-release", "error", row.key, evidence, error, fix, parameters
                )


def cuda_companion_beside_cpu_torch(examined: Examined) -> Iterator[Finding]:
    """A CUDA torchvision beside a CPU torch does not import."""
    environment = examined.environment
    if environment is None or environment.torch is None or environment.torch.cuda is not None:
        return
    for row in environment.distributions:
        if row.key not in ("torchvision", "torchaudio"):
            continue
        reports = [
            r
            for r in environment.binaries
            if r.path in row.binaries and (r.has_device_code or r.cuda_runtime)
        ]
        if reports:
            wants = reports[0].cuda_runtime.library if reports[0].cuda_runtime else None
            evidence = (
                Evidence(
                    reports[0].path, "machine code", " ".join(reports[0].machine_code) or wants or "CUDA"
                ),
                _torch_evidence(environment.torch),
            )
            parameters = {"name": row.name, "built": "CUDA", "torch": environment.torch.version}
            error = "RuntimeError: operator torchvision::nms does not exist"
            fix = _matching_companion(row.key, environment.torch, examined)
            yield Finding("built-for-another-torch", "error", row.key, evidence, error, fix, parameters)


def xformers_recorded_build(examined: Examined) -> Iterator[Finding]:
    """xFormers writes what it was built for into `cpp_lib.json`."""
    environment = examined.environment
    row = environment.distribution("xformers") if environment else None
    if environment is None or environment.torch is None or row is None:
        return
    path = Path(row.site) / "xformers" / "cpp_lib.json"
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["version"]
        built = str(recorded["torch"])
        same = Version(built).release == Version(environment.torch.version).release
    except (OSError, ValueError, KeyError, TypeError, InvalidVersion):
        return
    number = str(recorded.get("cuda") or "")
    cuda = f"{int(number) // 100}.{int(number) % 100}" if number.isdigit() else None
    if same and (cuda is None or cuda == environment.torch.cuda):
        return
    evidence = (Evidence(str(path), "version.torch", built), _torch_evidence(environment.torch))
    parameters = {"name": "xFormers", "built": f"torch {built}", "torch": environment.torch.version}
    error = "xFormers can't load C++/CUDA extensions"
    fix = "pip uninstall xformers"
    yield Finding("built-for-another-torch", "error", "xformers", evidence, error, fix, parameters)


def wrong_python_abi(examined: Examined) -> Iterator[Finding]:
    """An extension module whose name bears another Python's tag, with none for this Python beside it."""
    environment = examined.environment
    if environment is None or not environment.python:
        return
    here = environment.python.abi.removeprefix("cp")
    foreign: dict[str, str] = {}
    fitting: set[str] = set()
    for report in environment.binaries:
        tag = _EXTENSION_TAG.search(report.path)
        if not tag:
            continue
        module = report.path[: tag.start()]
        number = (tag["minor"] or (tag["windows"] or "").removeprefix("cp")).rstrip("t")
        if number == here.rstrip("t"):
            fitting.add(module)
        else:
            foreign[module] = report.path
    for module, path in foreign.items():
        if module not in fitting:
            evidence = (
                Evidence(path, "file name", Path(path).name),
                Evidence(environment.root, "Python", environment.python.abi),
            )
            name = Path(module).name
            parameters = {"file": Path(path).name, "python": environment.python.version}
            fix = f'bringup build {name} --env "{environment.root}"'
            yield Finding(
                "wrong-python-abi",
                "error",
                name,
                evidence,
                f"ModuleNotFoundError: No module named '{name}'",
                fix,
                parameters,
            )


def _newer(wanted: str, offered: str | None) -> bool:
    return offered is not None and Version(wanted) > Version(offered)


def system_too_old(examined: Examined) -> Iterator[Finding]:
    """A file wants a newer C or C++ library than the system has."""
    environment = examined.environment
    if environment is None:
        return
    offered = {"GLIBC_": environment.libraries.glibc, "GLIBCXX_": environment.libraries.glibcxx}
    for report in environment.binaries:
        for need in report.versions:
            prefix = next((p for p in offered if need.version.startswith(p)), None)
            number = need.version.removeprefix(prefix) if prefix else ""
            if prefix and re.fullmatch(r"[\d.]+", number) and _newer(number, offered[prefix]):
                has = f"{prefix}{offered[prefix]}"
                evidence = (
                    Evidence(report.path, "version needs", need.version),
                    Evidence(need.library, "offers", has),
                )
                error = f"{need.library}: version `{need.version}' not found (required by {report.path})"
                parameters = {
                    "file": Path(report.path).name,
                    "wanted": need.version,
                    "offered": has,
                }
                fix = "bringup image RECIPE (a newer base), or a wheel for an older manylinux"
                yield Finding(
                    "system-library-too-old",
                    "error",
                    Path(report.path).name,
                    evidence,
                    error,
                    fix,
                    parameters,
                )
                break
