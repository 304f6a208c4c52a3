"""The store of environments: one folder per name, one per plan key, and a pointer to the proved one.

Environments never move (their scripts hold absolute paths), so switching in is replacing the pointer.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bringup import state
from bringup.errors import BringupError
from bringup.steps.target import VirtualEnvironment

_POINTER = "current"
_PREVIOUS = "previous"


@dataclass(frozen=True)
class Slot:
    """The place of one environment: `<state>/environments/<name>/<key>`."""

    name: str
    key: str

    @property
    def root(self) -> Path:
        return state.environments() / self.name / self.key

    @property
    def target(self) -> VirtualEnvironment:
        return VirtualEnvironment(self.root / "venv")

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def proof(self) -> Path:
        return self.root / "proof.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.toml"

    @property
    def source(self) -> Path:
        """The workload's code, where the plan fetches it."""
        return self.root / "source"

    @property
    def models(self) -> Path:
        """Rebuilt checkpoints."""
        return self.root / "models"

    def log(self, step: str) -> Path:
        """The complete log of one step."""
        return self.root / "logs" / f"{step}.log"


def _read_pointer(name: str, pointer: str) -> str | None:
    try:
        key = (state.environments() / name / pointer).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return key if key and Slot(name, key).root.is_dir() else None


def current(name: str) -> Slot | None:
    """The environment that is switched in under this name."""
    key = _read_pointer(name, _POINTER)
    return Slot(name, key) if key else None


def previous(name: str) -> Slot | None:
    """The environment that was switched in before."""
    key = _read_pointer(name, _PREVIOUS)
    return Slot(name, key) if key else None


@contextmanager
def held(name: str) -> Iterator[None]:
    """Nobody else makes, deletes or switches environments of this name meanwhile.

    Raises:
        BringupError: `apply-locked`.
    """
    folder = state.environments() / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock").acquire(timeout=0):
            yield
    except Timeout as error:
        raise BringupError("apply-locked", name=name, path=folder) from error


def switch_in(slot: Slot) -> None:
    """Point the name at this environment; the one before stays, for `bringup rollback`."""
    before = current(slot.name)
    if before and before.key == slot.key:
        return
    folder = state.environments() / slot.name
    if before:
        state.write_atomically(folder / _PREVIOUS, before.key + "\n")
    state.write_atomically(folder / _POINTER, slot.key + "\n")


def roll_back(name: str) -> Slot:
    """Switch to the environment before.

    Raises:
        BringupError: `nothing-to-roll-back`, `unknown-environment`, `apply-locked`.
    """
    if name not in names():
        raise _unknown(name, names())
    with held(name):
        before = previous(name)
        if before is None:
            raise BringupError("nothing-to-roll-back", name=name)
        switch_in(before)
        return before


def names() -> list[str]:
    """Names under which environments are kept."""
    root = state.environments()
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []


def _unknown(name: str, known: list[str]) -> BringupError:
    return BringupError("unknown-environment", exit_code=2, given=name, known=", ".join(known) or "–")


def find(name: str) -> Slot:
    """The environment switched in under a name.

    Raises:
        BringupError: `unknown-environment`; `environment-unproved`: it was begun, its proof never held.
    """
    slot = current(name)
    if slot is not None:
        return slot
    folder = state.environments() / name
    if name in names() and any(entry.is_dir() for entry in folder.iterdir()):
        raise BringupError("environment-unproved", exit_code=2, name=name, path=folder)
    raise _unknown(name, [other for other in names() if current(other)])


def remove(name: str) -> list[Path]:
    """Delete all environments of a name. Returns the folders that were deleted."""
    if name not in names():
        raise _unknown(name, names())
    folder = state.environments() / name
    with held(name):
        (folder / _POINTER).unlink(missing_ok=True)
        for entry in folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
    shutil.rmtree(folder)
    return [folder]
