"""Where bringup keeps what it makes: one state folder, nothing elsewhere.

`BRINGUP_HOME` overrides the platform's own place for application data.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """The state folder (not created)."""
    override = os.environ.get("BRINGUP_HOME")
    if override:
        return Path(override).expanduser().absolute()
    return Path(platformdirs.user_data_dir("bringup", appauthor=False))


def environments() -> Path:
    """One folder per environment name; inside, one folder per plan and the pointer `current`."""
    return home() / "environments"


def runs() -> Path:
    """One folder per workload run: data, checkpoints, pictures, `report.html`."""
    return home() / "runs"


def cache() -> Path:
    """What can be made again: resolver environments, built wheels, scan results."""
    return home() / "cache"


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text so that `path` is either the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
