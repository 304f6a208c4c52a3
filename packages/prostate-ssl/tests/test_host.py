"""Memory as the system and its control groups tell it, from files as Linux writes them."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from prostate_ssl.host import UNKNOWN, available_memory, host_memory

GIB, KIB = 2**30, 2**10
NO_LIMIT = "9223372036854771712"


def _machine(folder: Path, meminfo: str, **limits: str) -> tuple[Path, Path]:
    (folder / "self").mkdir()
    (folder / "meminfo").write_text(meminfo)
    (folder / "self" / "statm").write_text("900 0 300 1 0 500 0\n")
    for name, text in limits.items():
        path = folder / name.replace("__", "/").replace("_max", ".max").replace("_limit", ".limit")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder, folder


@pytest.mark.parametrize(
    ("meminfo", "limits", "wanted"),
    [
        ("MemTotal: 24 kB\nMemAvailable: 8 kB\nSwapFree: 4 kB\n", {}, 12 << 10),
        ("MemAvailable: 8 kB\nHugePages_Total: 0\n", {}, 8 << 10),
        ("MemAvailable: 8 kB\nSwapFree: 1 kB\n", {"memory_max": "4096\n"}, 5 << 10),
        ("MemAvailable: 8 kB\n", {"memory_max": "max\n"}, 8 << 10),
        ("MemAvailable: 8 kB\n", {"memory__memory_limit_in_bytes": "2048\n"}, 2 << 10),
        ("MemAvailable: 8 kB\n", {"memory__memory_limit_in_bytes": "9223372036854771712\n"}, 8 << 10),
        ("MemTotal: 24 kB\nMemFree: 8 kB\n", {}, None),
        ("", {}, None),
        ("MemAvailable:\n", {}, None),
    ],
)
def test_the_most_memory_is_read_where_the_system_tells_it(meminfo, limits, wanted, tmp_path):
    assert host_memory(*_machine(tmp_path, meminfo, **limits)) == wanted


def test_this_machine_tells_it_if_it_runs_linux():
    if sys.platform == "linux":
        assert GIB // 4 < host_memory() < 2**50
        assert 0 < available_memory() < 2**50
    else:
        assert (host_memory(), available_memory()) == (None, UNKNOWN)


def group(
    version: int, limit: str | int, used: int | None = None, stat: dict[str, int] | None = None
) -> dict[str, str]:
    """The files of a control group; sizes in KiB."""
    names = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}[version]
    files = {names[0]: limit if isinstance(limit, str) else str(limit * KIB)}
    if used is not None:
        files[names[1]] = str(used * KIB)
    if stat is not None:
        files["stat"] = "".join(f"{name} {size * KIB}\n" for name, size in stat.items())
    return {f"memory.{name}": text + "\n" for name, text in files.items()}


def machine(root: Path, own: str, groups: dict[str, dict[str, str]]) -> tuple[Path, Path]:
    """`/proc` and `/sys/fs/cgroup` of a process that holds nothing, on a machine with 64 + 8 KiB."""
    proc, cgroups = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable: 64 kB\nSwapFree: 8 kB\n")
    (proc / "self" / "statm").write_text("900 0 300 1 0 500 0\n")
    if own:
        (proc / "self" / "cgroup").write_text(own + "\n")
    for folder, files in groups.items():
        (cgroups / folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (cgroups / folder / name).write_text(text)
    return proc, cgroups


CACHE_2 = {"anon": 9, "inactive_file": 8, "active_file": 4, "slab_reclaimable": 2, "slab_unreclaimable": 5}
CACHE_1 = {"inactive_file": 1, "total_inactive_file": 8, "total_active_file": 4}


@pytest.mark.parametrize(
    ("own", "groups", "available"),
    [
        pytest.param("", {}, 64, id="none"),
        pytest.param("0::/", {"": {}}, 64, id="2-root"),
        pytest.param("0::/", {"": group(2, "max", 30)}, 64, id="2-no-limit"),
        pytest.param("", {"": group(2, 40, 30)}, 10, id="2-container"),
        pytest.param("0::/", {"": group(2, 40, 30, CACHE_2)}, 24, id="2-freeable"),
        pytest.param("0::/", {"": group(2, 40, 10, CACHE_2)}, 40, id="2-more-freeable-than-used"),
        pytest.param("0::/", {"": group(2, 40, 50)}, 0, id="2-above-its-limit"),
        pytest.param("0::/a/b", {"a": group(2, 40, 30), "a/b": group(2, "max", 1)}, 10, id="2-outer"),
        pytest.param("0::/a/b", {"a": group(2, 60, 30), "a/b": group(2, 20, 1)}, 19, id="2-inner"),
        pytest.param("0::/a/b", {"a/c": group(2, 20, 1)}, 64, id="2-of-others"),
        pytest.param("0::/../a", {"": group(2, 40, 30), "a": group(2, 20)}, 10, id="2-above-the-root"),
        pytest.param("0::/", {"": group(2, 40, 30) | {"memory.high": f"{35 * KIB}\n"}}, 5, id="2-high"),
        pytest.param(
            "0::/", {"": group(2, 40, 30) | {"memory.high": f"{50 * KIB}\n"}}, 10, id="2-high-above"
        ),
        pytest.param("0::/", {"": group(2, 40, 30) | {"memory.high": "max\n"}}, 10, id="2-high-no-limit"),
        pytest.param(
            "0::/a",
            {
                "": {"memory.high": f"{40 * KIB}\n", "memory.current": f"{30 * KIB}\n"},
                "a": group(2, "max", 1),
            },
            10,
            id="2-high-alone",
        ),
        pytest.param("4:memory:/", {"memory": group(1, 40, 30)}, 10, id="1"),
        pytest.param("4:memory:/", {"memory": group(1, NO_LIMIT, 30)}, 64, id="1-no-limit"),
        pytest.param("4:memory:/", {"memory": group(1, 40, 30, CACHE_1)}, 22, id="1-freeable"),
        pytest.param(
            "9:cpu,memory:/slurm/job_7/step_0/task_0\n0::/system",
            {"memory/slurm/job_7": group(1, 40, 30), "memory/slurm/job_7/step_0": group(1, NO_LIMIT, 9)},
            10,
            id="1-slurm",
        ),
        pytest.param("4:memory:/docker/9f", {"memory": group(1, 40, 30)}, 10, id="1-container"),
        pytest.param("4:cpu:/a", {"memory/a": group(1, 40, 30)}, 64, id="1-group-of-processors"),
        pytest.param("4:memory:/a\n0::/b", {"memory/a": group(1, 40, 30), "b": {}}, 10, id="both-versions"),
        pytest.param("no group\n", {"": group(2, 40, 30)}, 10, id="unreadable-list"),
        pytest.param("0::/", {"": {"memory.max": "much\n"}}, 64, id="unreadable-limit"),
    ],
)
def test_memory_is_what_every_control_group_leaves(
    tmp_path: Path, own: str, groups: dict[str, dict[str, str]], available: int
) -> None:
    where = machine(tmp_path, own, groups)
    assert available_memory(*where) == available * KIB
    assert host_memory(*where) == (available + 8) * KIB  # the same and the swap: this process holds nothing


def group_1_with_swap(
    limit: str | int, limit_of_both: str | int, used: int, used_of_both: int
) -> dict[str, str]:
    both = {
        f"memory.memsw.{name.removeprefix('memory.')}": text
        for name, text in group(1, limit_of_both, used_of_both).items()
    }
    return group(1, limit, used) | both


@pytest.mark.parametrize(
    ("groups", "memory", "swap"),
    [
        pytest.param({"": {"memory.swap.max": "0\n"}}, 64, 0, id="2-none"),
        pytest.param({"": {"memory.swap.max": "max\n"}}, 64, 8, id="2-no-limit"),
        pytest.param(
            {"": group(2, 40, 30) | {"memory.swap.max": f"{9 * KIB}\n", "memory.swap.current": f"{4 * KIB}\n"}},
            10, 5, id="2-partly-used",
        ),
        pytest.param({"memory": group_1_with_swap(40, 40, 30, 30)}, 10, 0, id="1-none"),
        pytest.param({"memory": group_1_with_swap(40, 46, 30, 32)}, 10, 4, id="1-partly-used"),
        pytest.param({"memory": group_1_with_swap(40, NO_LIMIT, 30, 32)}, 10, 8, id="1-no-limit"),
        pytest.param({"memory": group_1_with_swap(NO_LIMIT, NO_LIMIT, 30, 32)}, 64, 8, id="1-neither"),
    ],
)  # fmt: skip
def test_swap_is_what_every_control_group_leaves(
    tmp_path: Path, groups: dict[str, dict[str, str]], memory: int, swap: int
) -> None:
    assert host_memory(*machine(tmp_path, "0::/", groups)) == (memory + swap) * KIB


def test_what_the_process_holds_itself_counts_to_the_most_up_to_the_limit(tmp_path: Path) -> None:
    page = mmap.PAGESIZE // KIB
    proc, cgroups = machine(tmp_path, "0::/a", {"a": group(2, 40 * page, 30 * page)})
    (proc / "meminfo").write_text(f"MemAvailable: {90 * page} kB\n")
    for held, most in ((0, 10), (20, 30), (35, 40)):
        (proc / "self" / "statm").write_text(f"99 {held} 0 0 0 0 0\n")
        assert host_memory(proc, cgroups) == most * page * KIB
    assert available_memory(proc, cgroups) == 10 * page * KIB


def test_where_no_system_tells_it_a_little_is_taken_to_be_free(tmp_path: Path) -> None:
    assert available_memory(tmp_path, tmp_path) == UNKNOWN
    assert host_memory(tmp_path, tmp_path) is None
