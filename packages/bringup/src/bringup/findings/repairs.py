"""The commands that mend what the rules find."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from packaging.version import InvalidVersion, Version

from bringup.facts.environment import TorchFacts
from bringup.findings.model import Examined, NamedGpu


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


def torch_fix(examined: Examined, gpu: NamedGpu | None = None) -> str:
    """The command that installs a torch which serves the GPU (without one: any newest), and with it the
    torchvision and torchaudio of its release where they are installed."""
    capability = gpu.capability if gpu else None
    build = examined.catalog.recommended_torch(capability)
    if build is None:
        return "bringup up RECIPE --cpu"
    wanted = [f"torch=={build.version}"]
    for name, version in (("torchvision", build.torchvision), ("torchaudio", build.torchaudio)):
        if examined.environment and examined.environment.distribution(name):
            wanted.append(f"{name}=={version}" if version else name)
    index = f" --index-url {build.index}" if build.index else ""
    return f"{pip(examined)} install {' '.join(wanted)}{index}"


def companion_fix(examined: Examined, name: str, torch: TorchFacts) -> str:
    """The command that installs the torchvision or torchaudio of the installed torch."""
    public = Version(torch.version).public
    build = next((row for row in examined.catalog.torch_builds if row.version == public), None)
    version = getattr(build, name, None) if build else None
    pinned = f"{name}=={version}" if version else name
    # A version without a label came from the package index, and so must its companion.
    labelled = "+" in torch.version or torch.cuda is None
    index = f" --index-url https://download.pytorch.org/whl/{torch_label(torch)}" if labelled else ""
    return f"{pip(examined)} install {pinned}{index}"


def extension_fix(examined: Examined, name: str, gpu: NamedGpu | None = None) -> str:
    """The command that puts a working build of an extension in place: a shim, a wheel, a plan, or a build."""
    row = examined.catalog.extension(name)
    torch = examined.environment.torch if examined.environment else None
    if row and row.portable:
        return f'portable-kernels install --shim {row.portable} --env "{environment_root(examined)}"'
    if row and row.wheels and torch and _is_version(torch.version):
        page = row.wheels.format(torch=Version(torch.version).public, cuda=torch_label(torch))
        return f"{pip(examined)} install --force-reinstall --no-deps {row.name} -f {page}"
    chip = f" --gpu {gpu.capability.sm}" if gpu else ""
    installed = examined.environment.distribution(name) if examined.environment else None
    if installed and (installed.commit or installed.editable or _is_folder(installed.direct_url)):
        # Where it came from is known: a new environment with it built from there.
        return f'bringup plan --env "{environment_root(examined)}"{chip} && bringup apply plan.toml'
    return f'bringup build {name}{chip} --env "{environment_root(examined)}"'


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
