"""The commands that mend what the rules find."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog.schema import TorchBuild
from bringup.facts.environment import TorchFacts
from bringup.facts.environment_distributions import Distribution
from bringup.findings.model import Examined, NamedGpu

TORCH_LIBRARIES = ("libtorch_cuda.so", "torch_cuda.dll", "libtorch_cuda_cu.so", "libtorch_cuda_cpp.so")
_BUILDS = "https://download.pytorch.org/whl"
_CPU_BUILDS = f"{_BUILDS}/cpu"
_OLDEST_PORTABLE = ComputeCapability(7, 5)  # the oldest chip that NVRTC 13 makes code for
_DRIVER_BRANCH = 580  # the oldest branch that is kept up and serves CUDA 13


def environment_root(examined: Examined) -> str:
    """The environment's folder, "." where only a project is looked at."""
    return examined.environment.root if examined.environment else "."


def pip(examined: Examined) -> str:
    """The start of every pip command for the environment: its own interpreter, quoted."""
    python = examined.environment.interpreter if examined.environment else None
    return f'"{python}" -m pip' if python else "python -m pip"


def torch_label(torch: TorchFacts) -> str:
    """torch's build in the spelling of local tags: "cu128" or "cpu"."""
    return "cu" + torch.cuda.replace(".", "") if torch.cuda else "cpu"


def new_environment(examined: Examined, gpu: NamedGpu | None) -> str:
    """The command that plans and makes an environment in place of this one, for the GPU if one is named."""
    chip = f" --gpu {gpu.capability.sm}" if gpu else ""
    return f'bringup plan --env "{environment_root(examined)}"{chip} -o plan.toml && bringup apply plan.toml'


def torch_fix(examined: Examined, gpu: NamedGpu | None = None) -> str:
    """The command that installs a torch which serves the GPU (without one: any newest), and with it the
    torchvision and torchaudio of its release where they are installed."""
    environment = examined.environment
    capability = gpu.capability if gpu else None
    build = examined.catalog.recommended_torch(
        capability, environment.python.version if environment else None
    )
    if build is None and examined.catalog.recommended_torch(capability):
        return new_environment(examined, gpu)  # There is one, for another Python.
    if build is None:
        return cpu_torch(examined)
    index = f" --index-url {build.index}" if build.index else ""
    return f"{pip(examined)} install torch=={build.version}{_companions(examined, build)}{index}"


def cpu_torch(examined: Examined) -> str:
    """The command that installs a torch for the CPU: what is left where nothing serves the GPU."""
    return f"{pip(examined)} install --force-reinstall torch --index-url {_CPU_BUILDS}"


def torch_build_fix(examined: Examined, build: TorchBuild, gpu: NamedGpu) -> str:
    """The command that installs this very build, and with it what `torch_fix` installs with torch."""
    environment = examined.environment
    if environment and not SpecifierSet(build.python).contains(environment.python.version):
        return new_environment(examined, gpu)
    # By its label even where it is the default build: another build of the release may be installed.
    index = build.index or f"{_BUILDS}/{build.local}"
    wanted = f"torch=={build.version}+{build.local}{_companions(examined, build)}"
    return f"{pip(examined)} install {wanted} --index-url {index}"


def _companions(examined: Examined, build: TorchBuild) -> str:
    """Requirements of the installed companions in the build's release, each after a space."""
    environment, wanted = examined.environment, ""
    for name, version in (("torchvision", build.torchvision), ("torchaudio", build.torchaudio)):
        if environment and environment.distribution(name):
            wanted += f" {name}=={version}" if version else f" {name}"
    return wanted


def companion_fix(examined: Examined, name: str, torch: TorchFacts) -> str:
    """The command that installs the torchvision or torchaudio of the installed torch."""
    public = Version(torch.version).public
    build = next((row for row in examined.catalog.torch_builds if row.version == public), None)
    version = getattr(build, name, None) if build else None
    pinned = f"{name}=={version}" if version else name
    # A version without a label came from the package index, and so must its companion.
    labelled = "+" in torch.version or torch.cuda is None
    index = f" --index-url {_BUILDS}/{torch_label(torch)}" if labelled else ""
    return f"{pip(examined)} install {pinned}{index}"


def extension_fix(examined: Examined, name: str, gpu: NamedGpu | None = None) -> str:
    """The command that puts a working build of an extension in place: a shim, a wheel, or a build."""
    environment = examined.environment
    row = examined.catalog.extension(name)
    installed = environment.distribution(name) if environment else None
    shims = importlib.util.find_spec("portable_kernels") is not None
    if row and row.portable and shims and (gpu is None or gpu.capability >= _OLDEST_PORTABLE):
        return f'portable-kernels install --shim {row.portable} --env "{environment_root(examined)}"'
    if (row and row.portable) or not _torch_serves(examined, gpu) or _origin_is_known(installed):
        return new_environment(examined, gpu)  # with everything that hangs together, from where it came
    torch = environment.torch if environment else None
    if row and row.wheels and torch and _is_version(torch.version):
        release = Version(torch.version)
        # PyG publishes for each minor release, under its first patch.
        page = row.wheels.format(torch=f"{release.major}.{release.minor}.0", cuda=torch_label(torch))
        return f"{pip(examined)} install --force-reinstall --no-deps {row.name} -f {page}"
    if row and row.build != f"pip install {row.name}":
        chip = f" --gpu {gpu.capability.sm}" if gpu else ""
        inside = (row.build or "").partition("#subdirectory=")[2]
        source = f"{row.name}/{inside}" if inside else row.name
        build = f'bringup build ./{source}{chip} --env "{environment_root(examined)}"'
        return f"git clone --recursive {row.repository} {row.name} && {build}"
    if installed:
        return f"{pip(examined)} install --upgrade --force-reinstall --no-deps {installed.name}"
    return new_environment(examined, gpu)


def _torch_serves(examined: Examined, gpu: NamedGpu | None) -> bool:
    """Whether the installed torch has code for the GPU; true where there is no torch to ask."""
    reports = examined.environment.binaries if examined.environment else ()
    own = [report for report in reports if Path(report.path).name in TORCH_LIBRARIES]
    return gpu is None or all(report.runs_on(gpu.capability).status != "no" for report in own)


def _origin_is_known(installed: Distribution | None) -> bool:
    """Whether it was installed from a repository or a folder that can be built again."""
    return installed is not None and bool(
        installed.commit or installed.editable or _is_folder(installed.direct_url)
    )


def driver_fix(examined: Examined, needed: str) -> str:
    """The command that brings a newer driver: on Windows, and for WSL2 there, NVIDIA's page of drivers."""
    if examined.windows_driver:
        opener = "explorer.exe" if examined.machine.host.wsl else "start"
        return f"{opener} https://www.nvidia.com/drivers"
    branch = max(_DRIVER_BRANCH, int(needed.split(".")[0]))
    # Blackwell wants the open kernel modules, which know nothing before Turing.
    old = any(gpu.capability < ComputeCapability(7, 5) for gpu in examined.gpus)
    return f"sudo apt-get install nvidia-driver-{branch}{'' if old else '-open'}"


def _is_folder(address: str | None) -> bool:
    """Whether a distribution was installed from a folder that is still there."""
    url = urlparse(address or "")
    return url.scheme == "file" and Path(url2pathname(url.path)).is_dir()


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True
