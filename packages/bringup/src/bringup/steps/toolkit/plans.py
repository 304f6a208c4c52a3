"""Ways to a CUDA compiler that the package index does not have, each as commands that a person runs.

Nothing here is carried out: these bring gigabytes, want root, or come from NVIDIA's own pages. The names of
the runfiles and the layout of the redistributable manifests are those of NVIDIA's download archive.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from bringup import state
from bringup.errors import BringupError
from bringup.facts.host import HostFacts

ARCHIVE = "https://developer.download.nvidia.com/compute/cuda"

# Newest patch of each release that published torch builds were made with, and the driver in its file's name.
_RUNFILES = {
    "11.8": ("11.8.0", "520.61.05"),
    "12.1": ("12.1.1", "530.30.02"),
    "12.4": ("12.4.1", "550.54.15"),
    "12.6": ("12.6.3", "560.35.05"),
    "12.8": ("12.8.1", "570.124.06"),
    "12.9": ("12.9.1", "575.57.08"),
}
COMPONENTS = (
    "cuda_nvcc", "cuda_cudart", "cuda_cccl", "cuda_nvrtc", "cuda_profiler_api", "cuda_nvtx",
    "libcublas", "libcusparse", "libcusolver", "libcurand",
)  # fmt: skip

# Reads NVIDIA's manifest of a release, fetches each component, checks its hash and unpacks it into one tree.
_FETCH = """\
import hashlib, io, json, pathlib, sys, tarfile, urllib.request
base, version, platform, root = sys.argv[1:5]
manifest = json.load(urllib.request.urlopen(f"{base}/redist/redistrib_{version}.json"))
for name in sys.argv[5:]:
    row = manifest[name][platform]
    data = urllib.request.urlopen(f"{base}/redist/{row['relative_path']}").read()
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        sys.exit(f"{name}: wrong hash, nothing of it was unpacked")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            top, _, inside = member.name.partition("/")
            if inside:
                member.name = inside
                archive.extract(member, root, filter="data")
    print(name, manifest[name]["version"])
lib64 = pathlib.Path(root, "lib64")
lib64.exists() or lib64.symlink_to("lib")
"""


@dataclass(frozen=True)
class Way:
    """One way. `id`: its words stand under `toolkit.way`; `commands`: for a POSIX shell, in order."""

    id: str
    root: Path
    commands: tuple[str, ...]
    needs_root: bool


@dataclass(frozen=True)
class ToolkitPlan:
    """All ways to one release, the smallest first."""

    version: str
    ways: tuple[Way, ...]


def unknown_release(version: str) -> BringupError:
    """`toolkit-unknown`: neither a plan nor the package index has it."""
    return BringupError("toolkit-unknown", exit_code=2, version=version, known=", ".join(_RUNFILES))


def plan_toolkit(version: str, host: HostFacts, mirror: str | None = None) -> ToolkitPlan:
    """How to get a release that has no wheels.

    Args:
        version: "12.8".
        mirror: stands in place of NVIDIA's archive (in mainland China: the same path at nvidia.cn).

    Raises:
        BringupError: `toolkit-version`; `toolkit-unknown`: a release that this does not know.
    """
    if not re.fullmatch(r"\d+\.\d+", version):
        raise BringupError("toolkit-version", exit_code=2, given=version)
    if version not in _RUNFILES:
        raise unknown_release(version)
    base = (mirror or ARCHIVE).rstrip("/")
    ways = [_components(version, host, base), _conda(version), _runfile(version, host, base)]
    packages = _system_packages(version, host, base)
    return ToolkitPlan(version, tuple(way for way in (*ways, packages) if way))


def folder_for(version: str) -> Path:
    """Where the plans put a toolkit: beside bringup's own."""
    return state.home() / "toolkits" / f"cuda-{version}"


def _platform(host: HostFacts) -> str:
    return "linux-sbsa" if host.architecture == "aarch64" else "linux-x86_64"


def _components(version: str, host: HostFacts, base: str) -> Way:
    root = folder_for(version)
    words = [base, _RUNFILES[version][0], _platform(host), str(root), *COMPONENTS]
    command = f"python3 - {shlex.join(words)} <<'END'\n{_FETCH}END"
    return Way("components", root, (command,), False)


def _conda(version: str) -> Way | None:
    program = next((name for name in ("micromamba", "mamba", "conda") if shutil.which(name)), None)
    if program is None:
        return None
    root = folder_for(version).with_name(f"conda-{version}")
    parts = [f"cuda-nvcc={version}", f"cuda-cudart-dev={version}", f"cuda-version={version}"]
    parts += ["libcublas-dev", "libcusparse-dev", "libcusolver-dev", "libcurand-dev", "cuda-cccl"]
    words = [program, "create", "--yes", "--prefix", str(root), "--channel", "conda-forge", *parts]
    return Way("conda", root, (shlex.join(words),), False)


def _runfile(version: str, host: HostFacts, base: str) -> Way:
    root = folder_for(version)
    full, driver = _RUNFILES[version]
    suffix = "_sbsa" if host.architecture == "aarch64" else ""
    name = f"cuda_{full}_{driver}_linux{suffix}.run"
    install = ["sh", name, "--silent", "--toolkit", f"--toolkitpath={root}", "--override"]
    install += [f"--defaultroot={root}", "--no-man-page"]
    commands = (f"curl -fLO {base}/{full}/local_installers/{name}", shlex.join(install), f"rm {name}")
    return Way("runfile", root, commands, False)


def _distribution(host: HostFacts) -> str | None:
    """NVIDIA's name for this system's repository: "ubuntu2204", "debian12", "wsl-ubuntu"."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return None
    pairs = (line.partition("=") for line in text.splitlines())
    known = {key: value.strip('"') for key, _, value in pairs}
    name, number = known.get("ID", ""), known.get("VERSION_ID", "")
    if name == "ubuntu":
        return "wsl-ubuntu" if host.wsl else f"ubuntu{number.replace('.', '')}"
    return f"debian{number}" if name == "debian" else None


def _system_packages(version: str, host: HostFacts, base: str) -> Way | None:
    """The toolkit alone: the metapackage `cuda` would bring a driver, which WSL2 must never get."""
    distribution = _distribution(host)
    if distribution is None or host.system != "linux":
        return None
    sudo = "" if os.name == "posix" and os.geteuid() == 0 else "sudo "
    machine = "sbsa" if host.architecture == "aarch64" else "x86_64"
    keyring = "cuda-keyring_1.1-1_all.deb"
    commands = (
        f"curl -fLO {base}/repos/{distribution}/{machine}/{keyring}",
        f"{sudo}dpkg -i {keyring}",
        f"{sudo}apt-get update",
        f"{sudo}apt-get install -y cuda-toolkit-{version.replace('.', '-')}",
    )
    return Way("apt", Path(f"/usr/local/cuda-{version}"), commands, True)
