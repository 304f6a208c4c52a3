"""The memory of the machine as this process may use it: within its control groups, where there are any.

Linux's `/proc/meminfo` (proc(5)) and control groups of both versions (cgroup-v2, cgroup-v1/memory).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
UNKNOWN = 4 << 30
"""So many bytes are taken to be free where no system says it (macOS, Windows)."""


@dataclass(frozen=True)
class _Group:
    """What a control group allows: bytes in all, and bytes that are left or can be freed."""

    limit: int
    room: int


# Names of limit and use, and what the kernel takes back before it ends a process.
_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


def available_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that are free or can be freed now, without swap; `UNKNOWN` where no system says it."""
    free = _sizes(proc / "meminfo", scale=1024).get("MemAvailable", UNKNOWN)
    return max(0, min([free, *(group.room for group in _limiting_groups(proc, cgroups))]))


def host_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """The most that this process may come to hold, bytes; None where no system says it (macOS, Windows).

    What is free or can be freed, free swap, and what the process holds already; within control groups, the
    lowest of their limits, and what others in them leave.
    """
    try:
        sizes = _sizes(proc / "meminfo", scale=1024)
        held = int((proc / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        most = sizes["MemAvailable"] + held
    except (OSError, ValueError, LookupError, AttributeError):
        return None
    for group in _limiting_groups(proc, cgroups):
        most = min(most, group.limit, group.room + held)
    return max(0, most) + sizes.get("SwapFree", 0)


def _limiting_groups(proc: Path, cgroups: Path) -> Iterator[_Group]:
    """The process's own groups and all above them, as far as they have limits: each of these binds."""
    for folder in _folders(proc, cgroups):
        for limit_name, used_name, freeable in _FILES:
            limit = _number(folder / limit_name)
            if limit is None:  # another version, no limit («max»), or a group that is not seen from here
                continue
            sizes = _sizes(folder / "memory.stat")
            used = (_number(folder / used_name) or 0) - sum(sizes.get(name, 0) for name in freeable)
            yield _Group(limit, limit - max(0, used))


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


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _sizes(path: Path, scale: int = 1) -> dict[str, int]:
    """Lines of a name and a number; those that are something else, or cannot be read, are left out."""
    sizes = {}
    with contextlib.suppress(OSError, ValueError):
        for words in map(str.split, path.read_text().splitlines()):
            if len(words) > 1 and words[1].isdigit():
                sizes[words[0].rstrip(":")] = int(words[1]) * scale
    return sizes
