"""The host as a process sees it: cores and memory within cgroup and WSL2 limits, free disk, system."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil


@dataclass(frozen=True)
class HostFacts:
    """What this process may use. Bytes throughout.

    Attributes:
        system: "linux", "windows" or "macos"; WSL2 is "linux" with `wsl` set.
        architecture: "x86_64" or "aarch64" (other machines as `platform.machine()` has them).
        cores: logical processors that this process may use (affinity and cgroup quota applied).
        memory_total: physical memory, or the cgroup's limit where that is lower.
        memory_available: what can be taken now without swapping, within the limit.
        wsl: "1" or "2" under the Windows Subsystem for Linux, else None.
        container: whether the process runs in a container, as far as that can be seen.
        glibc: version of the C library, for example "2.36"; None where there is none.
    """

    system: str
    release: str
    architecture: str
    cores: int
    cores_installed: int
    memory_total: int
    memory_installed: int
    memory_available: int
    swap_total: int
    wsl: str | None
    container: bool
    glibc: str | None


@dataclass(frozen=True)
class DiskFacts:
    """Free and total bytes of the file system that holds `path`."""

    path: str
    free: int
    total: int


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _cgroup_folders(controller: str, proc: Path, mount: Path) -> list[Path]:
    """The process's own cgroup and all above it: a limit on any of them binds."""
    lines = (_read(proc / "self" / "cgroup") or "").splitlines()
    for line in lines:
        hierarchy, controllers, path = [*line.split(":", 2), "", ""][:3]
        if hierarchy == "0" and not controllers:
            base = mount
        elif controller in controllers.split(","):
            base = mount / controller
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        if ".." in own.parts:
            return [base]
        return [base / own, *(base / parent for parent in own.parents)]
    return [mount]


def cgroup_memory_limit(proc: Path = Path("/proc"), mount: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Lowest memory limit of the process's cgroups in bytes (versions 1 and 2); None without one."""
    limits = []
    for folder in _cgroup_folders("memory", proc, mount):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            # Version 1 writes a number near 2**63 for «no limit».
            if text and text.isdigit() and int(text) < 1 << 60:
                limits.append(int(text))
    return min(limits, default=None)


def cgroup_memory_used(proc: Path = Path("/proc"), mount: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the process's own cgroup uses now, page cache that can be dropped not counted."""
    folder = _cgroup_folders("memory", proc, mount)[0]
    for name in ("memory.current", "memory.usage_in_bytes"):
        text = _read(folder / name)
        if text and text.isdigit():
            statistics = (_read(folder / "memory.stat") or "").splitlines()
            pairs = (line.split() for line in statistics if line.count(" ") == 1)
            droppable = {name: int(value) for name, value in pairs}
            return max(0, int(text) - droppable.get("inactive_file", 0))
    return None


def cgroup_cores(proc: Path = Path("/proc"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Lowest processor quota of the process's cgroups, in cores; None without one."""
    quotas = []
    for folder in _cgroup_folders("cpu", proc, mount):
        quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
        if not quota:
            quota = _read(folder / "cpu.cfs_quota_us") or ""
            period = _read(folder / "cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def wsl_version(kernel_release: str, environment: dict[str, str]) -> str | None:
    """WSL's version from the kernel's release string; "1" and "2" differ in how it is spelled."""
    lowered = kernel_release.lower()
    if "microsoft" not in lowered:
        return "2" if "WSL_INTEROP" in environment and "WSL_DISTRO_NAME" in environment else None
    # WSL 1 reports «4.4.0-19041-Microsoft», WSL 2 «5.15.90.1-microsoft-standard-WSL2».
    return "1" if kernel_release.endswith("-Microsoft") else "2"


def _in_container() -> bool:
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() or "APPTAINER_NAME" in os.environ:
        return True
    control_groups = _read(Path("/proc/1/cgroup")) or ""
    return any(word in control_groups for word in ("docker", "kubepods", "containerd", "libpod"))


def _system() -> str:
    return {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")


def _usable_cores() -> int:
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:
        allowed = os.cpu_count() or 1
    quota = cgroup_cores()
    return max(1, min(allowed, int(quota) if quota else allowed))


def read_host() -> HostFacts:
    """Read the host; never fails for a fact that is missing."""
    memory = psutil.virtual_memory()
    limit = cgroup_memory_limit()
    total = min(memory.total, limit) if limit else memory.total
    used = cgroup_memory_used() if limit else None
    available = min(memory.available, max(0, total - used)) if used is not None else memory.available
    machine = platform.machine().lower()
    library, library_version = platform.libc_ver()
    return HostFacts(
        system=_system(),
        release=platform.release(),
        architecture={"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine),
        cores=_usable_cores(),
        cores_installed=os.cpu_count() or 1,
        memory_total=total,
        memory_installed=memory.total,
        memory_available=min(available, total),
        swap_total=psutil.swap_memory().total,
        wsl=wsl_version(platform.release(), dict(os.environ)),
        container=_in_container(),
        glibc=library_version if library == "glibc" else None,
    )


def read_disk(path: Path) -> DiskFacts:
    """Free space where `path` is or will be."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    usage = shutil.disk_usage(existing)
    return DiskFacts(path=str(path), free=usage.free, total=usage.total)
