"""What was done, with which inputs and in how long: an append-only file that survives a kill."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One finished step. `key`: hash of its inputs; `seconds`: wall time."""

    step: str
    key: str
    seconds: float
    when: str


def _parse(line: str) -> Entry | None:
    try:
        return Entry(**json.loads(line))
    except (ValueError, TypeError):
        return None


class Journal:
    """Entries of one environment or run, one JSON object a line. A torn last line is ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [entry for entry in map(_parse, lines) if entry]

    def seconds(self, step: str, key: str) -> float | None:
        """How long the step took when it was done with these inputs; None if it was not."""
        matching = [entry.seconds for entry in self.entries() if (entry.step, entry.key) == (step, key)]
        return matching[-1] if matching else None

    def add(self, step: str, key: str, seconds: float) -> None:
        """Append, and make sure that it is on the disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        entry = Entry(step, key, round(seconds, 3), time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        torn = (
            self._path.exists() and self._path.stat().st_size and not self._path.read_bytes().endswith(b"\n")
        )
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if torn else "") + json.dumps(asdict(entry)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
