"""How many compilers at once: cores and memory decide, and what compilers here were seen to take.

The peak of a compiler is the high-water mark that the kernel keeps for it, read while it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock

from bringup import state
from bringup.facts.host import HostFacts

# What one translation unit may take before this project was ever measured here: with torch's headers one
# of torchmcubes or a rasteriser takes 1 to 4 GB (docs/build.md has the measurements).
UNKNOWN_WITH_TORCH = 4 << 30
UNKNOWN_PLAIN = 1 << 30
_RESERVE = 512 << 20
_INTERVAL = 0.2
_COMPILERS = (
    "cicc",
    "ptxas",
    "nvlink",
    "cc1",
    "cc1plus",
    "cl",
    "clang",
    "lto1",
    "ld",
    "fatbinary",
    "cudafe++",
)


@dataclass(frozen=True)
class JobLimits:
    """Why this many.

    Attributes:
        jobs: the number. `per_unit`: bytes that one was counted with; `measured`: seen here before.
        memory: bytes that were free to be shared out. `cores`: that this process may use.
    """

    jobs: int
    per_unit: int
    measured: bool
    memory: int
    cores: int


def choose_jobs(
    host: HostFacts, units: int, with_torch: bool, measured: int | None, wish: int | None = None
) -> JobLimits:
    """As many as cores, memory and translation units allow; never more than `wish` or MAX_JOBS.

    Args:
        units: translation units of the project.
        measured: bytes that the largest of them took here before.
    """
    per_unit = measured or (UNKNOWN_WITH_TORCH if with_torch else UNKNOWN_PLAIN)
    memory = max(0, host.memory_available - max(_RESERVE, host.memory_total // 20))
    limits = [host.cores, max(1, units), max(1, memory // per_unit)]
    said = os.environ.get("MAX_JOBS", "")
    if wish is not None:
        limits = [wish]
    elif said.isdigit() and int(said):
        limits.append(int(said))
    return JobLimits(max(1, min(limits)), per_unit, measured is not None, memory, host.cores)


def fewer_jobs(jobs: int, peak: int | None, memory: int) -> int:
    """After the system killed a compiler: half as many, or what the measured peak allows if that is less."""
    by_memory = memory // peak if peak else jobs
    return max(1, min(jobs // 2, by_memory))


def _memory_file() -> Path:
    return state.cache() / "builds" / "memory.json"


def _read_memory() -> dict[str, int]:
    try:
        document = json.loads(_memory_file().read_text(encoding="utf-8"))
        return {str(name): int(value) for name, value in document.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def measured_peak(project: str) -> int | None:
    """Bytes that the largest translation unit of this project took here before."""
    return _read_memory().get(project)


def remember_peak(project: str, peak: int) -> None:
    """Keep the largest peak of a project."""
    _memory_file().parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{_memory_file()}.lock"):
        known = _read_memory()
        known[project] = max(peak, known.get(project, 0))
        state.write_atomically(_memory_file(), json.dumps(known, indent=1, sort_keys=True) + "\n")


def _high_water(process: psutil.Process) -> int:
    """Peak resident bytes of a process so far (VmHWM on Linux)."""
    try:
        for line in (
            Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        ):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    with contextlib.suppress(psutil.Error):
        information = process.memory_info()
        return int(getattr(information, "peak_wset", information.rss))
    return 0


@dataclass
class MemoryWatch:
    """Watches the compilers below this process while the block runs.

    Attributes:
        largest: peak resident bytes of the largest single compiler.
        together: most bytes that all of them took at one moment.
    """

    largest: int = 0
    together: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> MemoryWatch:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _compilers(self) -> Iterator[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if process.name().removesuffix(".exe") in _COMPILERS:
                        yield process

    def _watch(self) -> None:
        while not self._stop.is_set():
            total = 0
            for process in self._compilers():
                self.largest = max(self.largest, _high_water(process))
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            self.together = max(self.together, total)
            self._stop.wait(_INTERVAL)
