"""Limits of cgroups and the signs of WSL, from files as kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bringup.facts import host


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


V2 = {"proc/self/cgroup": "0::/user.slice/job\n"}
V1 = {"proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n"}


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        (V2 | {"cg/user.slice/job/memory.max": "max\n"}, None),
        (V2 | {"cg/user.slice/job/memory.max": "8000000000\n"}, 8_000_000_000),
        (V2 | {"cg/user.slice/memory.max": "4000\n", "cg/user.slice/job/memory.max": "9000\n"}, 4000),
        (V1 | {"cg/memory/docker/abc/memory.limit_in_bytes": "2147483648\n"}, 2_147_483_648),
        (V1 | {"cg/memory/docker/abc/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({}, None),
    ],
)
def test_memory_limit(files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    write(tmp_path, files)
    assert host.cgroup_memory_limit(tmp_path / "proc", tmp_path / "cg") == limit


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        (V2 | {"cg/user.slice/job/cpu.max": "max 100000\n"}, None),
        (V2 | {"cg/user.slice/job/cpu.max": "150000 100000\n"}, 1.5),
        (
            {"proc/self/cgroup": "4:cpu:/x\n", "cg/cpu/x/cpu.cfs_quota_us": "400000\n"}
            | {"cg/cpu/x/cpu.cfs_period_us": "100000\n"},
            4.0,
        ),
        ({"proc/self/cgroup": "4:cpu:/x\n", "cg/cpu/x/cpu.cfs_quota_us": "-1\n"}, None),
    ],
)
def test_core_quota(files: dict[str, str], cores: float | None, tmp_path: Path) -> None:
    write(tmp_path, files)
    assert host.cgroup_cores(tmp_path / "proc", tmp_path / "cg") == cores


def test_page_cache_is_not_counted_as_used(tmp_path: Path) -> None:
    files = {
        "cg/user.slice/job/memory.current": "1000\n",
        "cg/user.slice/job/memory.stat": "inactive_file 300\n",
    }
    write(tmp_path, V2 | files)
    assert host.cgroup_memory_used(tmp_path / "proc", tmp_path / "cg") == 700


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("5.15.90.1-microsoft-standard-WSL2", "2"),
        ("6.6.87.2-microsoft-standard-WSL2+", "2"),
        ("4.4.0-19041-Microsoft", "1"),
        ("6.1.0-18-amd64", None),
    ],
)
def test_wsl_is_recognised(release: str, version: str | None) -> None:
    assert host.wsl_version(release, {}) == version


def test_this_host() -> None:
    facts = host.read_host()
    assert facts.cores >= 1
    assert 0 < facts.memory_available <= facts.memory_total <= facts.memory_installed


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    facts = host.read_disk(tmp_path / "a" / "b")
    assert 0 < facts.free <= facts.total
