"""bringup's own intermediate files. Results stay: environments in use, runs, toolkits, records for undo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bringup import state
from bringup.steps import environments
from bringup.steps.clean.items import Item, Kind, item_of

# Folders of the cache whose entries stand alone.
_SHARED = ("resolvers", "builds", "build-environments")
# Weights serve runs where they lie, and what a compiler was seen to need is small and dear.
_KEPT = ("weights", "memory.json")


def _entries(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(folder.iterdir())


def _found(path: Path, kind: Kind) -> Iterator[Item]:
    item = item_of(path, kind, "bringup")
    if item:
        yield item


def _cache() -> Iterator[Item]:
    for folder in _entries(state.cache()):
        for entry in _entries(folder) if folder.name in _SHARED else [folder]:
            if entry.name not in _KEPT and entry.suffix != ".lock" and folder.name not in _KEPT:
                yield from _found(entry, "log" if entry.suffix == ".log" else "cache")


def _environments() -> Iterator[Item]:
    """Environments that are not in use: half-finished ones have no proof; logs of those in use."""
    for name in environments.names():
        folder = state.environments() / name
        active = environments.current(name)
        for entry in _entries(folder):
            if entry.is_symlink() or not entry.is_dir():
                continue
            if active and entry.name == active.key:
                yield from _found(entry / "logs", "log")
            elif (entry / "proof.json").is_file() and _proved(entry / "proof.json"):
                yield from _found(entry, "superseded")
            else:
                yield from _found(entry, "half-finished")


def _proved(file: Path) -> bool:
    from bringup.steps.verify import read_proof

    try:
        return read_proof(file).holds
    except Exception:  # noqa: BLE001 - a proof that cannot be read proves nothing
        return False


def _logs() -> Iterator[Item]:
    yield from _found(state.home() / "toolkits" / "logs", "log")
    for run in _entries(state.runs()):
        if not run.is_symlink() and run.is_dir():
            yield from _found(run / "logs", "log")


def _partials() -> Iterator[Item]:
    """Files that a killed program left beside their final name."""
    for folder in (state.home(), *(_entries(state.home()))):
        for entry in _entries(folder):
            if entry.name.startswith(".") and entry.name.endswith(".partial"):
                yield from _found(entry, "partial")


def own_items() -> list[Item]:
    """Everything of ours that may go, in the order of the state folder."""
    if not state.home().is_dir():
        return []
    listed = {item.path: item for item in (*_cache(), *_environments(), *_logs(), *_partials())}
    return list(listed.values())


@contextmanager
def held(item: Item) -> Iterator[bool]:
    """Whether nobody works at the item; while inside, nobody starts to."""
    with ExitStack() as stack:
        for lock in _locks_of(item):
            holder = FileLock(lock)
            try:
                holder.acquire(timeout=0)
            except (Timeout, OSError):
                yield False
                return
            stack.callback(holder.release)
        yield True


def _locks_of(item: Item) -> list[Path]:
    """The locks that its makers take: one a name for environments and runs, one an entry in the cache."""
    assert item.path is not None
    for root, pattern in ((state.environments(), "{}/.lock"), (state.runs(), ".{}.lock")):
        if item.path.is_relative_to(root):
            return [root / pattern.format(item.path.relative_to(root).parts[0])]
    folder, builds = item.path.parent, state.cache() / "builds"
    if folder == builds:
        # A result `KEY`, its log `KEY.log` and its workshop `.KEY.work` have one lock.
        key = item.path.name.removeprefix(".").removesuffix(".work").removesuffix(".log")
        return [builds / f".{key}.lock"]
    if folder == state.cache() / "build-environments":
        # Any build may be using it.
        return [folder / f"{item.path.name}.lock", *sorted(builds.glob(".*.lock"))]
    return [folder / f"{item.path.name}.lock"] if item.path.is_dir() else []
