"""The memory of the machine as this process may use it: within its control groups, where there are any.

Linux's `/proc/meminfo` (proc(5)) and control groups of both versions (cgroup-v2, cgroup-v1/memory).
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
UNKNOWN = 4 << 30
"""So many bytes are taken to be free where no system says it (macOS, Windows)."""
_NO_LIMIT = 1 << 62  # and more: how version 1 says that there is none


@dataclass(frozen=True)
class _Group:
    """What a control group allows, in bytes: in all, left or to be freed, and left of the swap."""

    limit: float
    room: float
    swap: float


# Names of limits (above `memory.high` the kernel slows a process down to a standstill) and of use; what the
# kernel takes back before it ends a process.
_FILES = (
    (("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file", "slab_reclaimable")),
    (("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


def available_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that are free or can be freed now, without swap; `UNKNOWN` where no system says it."""
    free = _sizes(proc / "meminfo", scale=1024).get("MemAvailable", UNKNOWN)
    return int(max(0, min([free, *(group.room for group in _limiting_groups(proc, cgroups))])))


def host_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """The most that this process may come to hold, bytes; None where no system says it (macOS, Windows).

    What is free or can be freed, free swap, and what the process holds already; within control groups, the
    lowest of their limits, and what others in them leave of memory and swap.
    """
    try:
        sizes = _sizes(proc / "meminfo", scale=1024)
        held = int((proc / "self/statm").read_text().split()[1]) * mmap.PAGESIZE
        most: float = sizes["MemAvailable"] + held
    except (OSError, ValueError, LookupError):
        return None
    swap: float = sizes.get("SwapFree", 0)
    for group in _limiting_groups(proc, cgroups):
        most = min(most, group.limit, group.room + held)
        swap = min(swap, group.swap)
    return int(max(0, most) + max(0, swap))


def _limiting_groups(proc: Path, cgroups: Path) -> Iterator[_Group]:
    """The process's own groups and all above them: each of their limits binds."""
    for folder in _folders(proc, cgroups):
        for limit_names, used_name, freeable in _FILES:
            # Infinite: another version, no limit («max»), or a group that is not seen from here.
            limit = min(_number(folder / name, math.inf) for name in limit_names)
            sizes = _sizes(folder / "memory.stat")
            used = _number(folder / used_name, 0)
            room = limit - max(0, used - sum(sizes.get(name, 0) for name in freeable))
            yield _Group(limit, room, _swap_left(folder, limit, used))


def _swap_left(folder: Path, limit: float, used: float) -> float:
    """What a group leaves of the swap. Version 1 limits and counts memory and swap together."""
    left = _number(folder / "memory.swap.max", math.inf) - _number(folder / "memory.swap.current", 0)
    both = _number(folder / "memory.memsw.limit_in_bytes", math.inf)
    if limit == math.inf or both == math.inf:
        return left
    return min(left, both - limit - (_number(folder / "memory.memsw.usage_in_bytes", used) - used))


def _folders(proc: Path, cgroups: Path) -> list[Path]:
    """Where the groups' files lie: from the process's own group up to the root, of both versions.

    A container sees its own group as the root, and may be told a path that it does not see.
    """
    found = {cgroups: None, cgroups / "memory": None}
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own = PurePosixPath(path.lstrip("/"))
            if ".." in own.parts or not (controllers == "" or "memory" in controllers.split(",")):
                continue
            root = cgroups / "memory" if controllers else cgroups
            found.update(dict.fromkeys(root / part for part in (own, *own.parents)))
    return list(found)


def _number(path: Path, otherwise: float) -> float:
    with contextlib.suppress(OSError, ValueError):
        number = int(path.read_text())
        return number if number < _NO_LIMIT else otherwise
    return otherwise


def _sizes(path: Path, scale: int = 1) -> dict[str, int]:
    """Lines of a name and a number; those that are something else, or cannot be read, are left out."""
    sizes = {}
    with contextlib.suppress(OSError, ValueError):
        for words in map(str.split, path.read_text().splitlines()):
            if len(words) > 1 and words[1].isdigit():
                sizes[words[0].rstrip(":")] = int(words[1]) * scale
    return sizes
