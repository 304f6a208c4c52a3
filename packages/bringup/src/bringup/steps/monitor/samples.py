"""One reading of GPUs (NVML) and host (psutil, cgroups). What a device does not tell is None.

Source: NVIDIA, «NVML API Reference», nvmlDeviceGetCurrentClocksEventReasons and its neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import pynvml

from bringup.facts.host import cgroup_cores, cgroup_memory_limit, cgroup_memory_used, read_disk

# Bits of NVML's answer → identifiers, kept in the CSV and turned into words in `report`.
_REASONS = {
    pynvml.nvmlClocksEventReasonGpuIdle: "idle",
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting: "application-clocks",
    pynvml.nvmlClocksEventReasonSwPowerCap: "power-cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware-slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync-boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "software-thermal",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hardware-thermal",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power-brake",
    pynvml.nvmlClocksEventReasonDisplayClockSetting: "display-clocks",
}
HARMLESS = {"idle", "application-clocks", "display-clocks"}


@dataclass(frozen=True)
class GpuSample:
    """One GPU. Percent, bytes, watts, degrees Celsius, megahertz.

    Attributes:
        throttle: why the clocks are lower than they could be; None where the driver does not tell.
    """

    index: int
    name: str
    utilization: int | None
    memory_used: int | None
    memory_total: int | None
    power: float | None
    power_limit: float | None
    temperature: int | None
    clock: int | None
    memory_clock: int | None
    throttle: tuple[str, ...] | None


@dataclass(frozen=True)
class HostSample:
    """The host as this process may use it. Bytes, percent, bytes a second.

    Attributes:
        cpu: of all processors, since the sample before.
        cores: processors that may be used, a cgroup's quota applied.
        memory_total: the cgroup's limit where that is lower than what is installed (`limited`).
        disk_read, disk_write: of all disks; None where the system does not count.
    """

    cpu: float
    cores: float
    memory_used: int
    memory_total: int
    limited: bool
    swap_used: int
    swap_total: int
    disk_free: int
    disk_read: float | None
    disk_write: float | None


@dataclass(frozen=True)
class Sample:
    """Everything at one moment. `time`: seconds since the epoch."""

    time: float
    host: HostSample
    gpus: tuple[GpuSample, ...]


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """Identifiers of the bits that are set, in NVML's order; unknown bits as "bit-N"."""
    named = [name for bit, name in _REASONS.items() if bits & bit]
    known = sum(_REASONS)
    unknown = [f"bit-{number}" for number in range(64) if bits & ~known & (1 << number)]
    return (*named, *unknown)


def _ask(question: Callable[..., Any], *arguments: Any) -> Any:
    """NVML's answer, None where the device or the driver has none."""
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


def _milliwatts(value: int | None) -> float | None:
    return None if value is None else value / 1000


def read_gpu(index: int) -> GpuSample | None:
    """One GPU; None if it fell off the bus."""
    handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return None
    name = _ask(pynvml.nvmlDeviceGetName, handle) or "?"
    used = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    return GpuSample(
        index=index,
        name=name.decode() if isinstance(name, bytes) else name,
        utilization=used.gpu if used else None,
        memory_used=memory.used if memory else None,
        memory_total=memory.total if memory else None,
        power=_milliwatts(_ask(pynvml.nvmlDeviceGetPowerUsage, handle)),
        power_limit=_milliwatts(_ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        temperature=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        clock=_ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        memory_clock=_ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
        throttle=None if reasons is None else throttle_reasons(reasons),
    )


@dataclass
class _Counters:
    """Disk counters of the sample before."""

    when: float = 0.0
    read: int = 0
    written: int = 0


@dataclass
class Sampler:
    """Reads samples; a context manager, because NVML is opened once.

    Args:
        folder: whose file system's free space is watched.
    """

    folder: Path
    _nvml: bool = False
    _before: _Counters = field(default_factory=_Counters)

    def __enter__(self) -> Sampler:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._nvml = True
        psutil.cpu_percent()  # The first call only starts the count.
        self._disk()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._nvml:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def read(self) -> Sample:
        """Everything now."""
        count = (_ask(pynvml.nvmlDeviceGetCount) or 0) if self._nvml else 0
        gpus = (read_gpu(index) for index in range(count))
        return Sample(time.time(), self._host(), tuple(gpu for gpu in gpus if gpu))

    def _host(self) -> HostSample:
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        limit = cgroup_memory_limit()
        limited = limit is not None and limit < memory.total
        used = cgroup_memory_used() if limited else None
        read, written = self._disk()
        return HostSample(
            cpu=psutil.cpu_percent(),
            cores=cgroup_cores() or float(psutil.cpu_count() or 1),
            memory_used=used if used is not None else memory.total - memory.available,
            memory_total=limit if limited and limit is not None else memory.total,
            limited=limited,
            swap_used=swap.used,
            swap_total=swap.total,
            disk_free=read_disk(self.folder).free,
            disk_read=read,
            disk_write=written,
        )

    def _disk(self) -> tuple[float | None, float | None]:
        """Bytes a second since the sample before."""
        try:
            counters = psutil.disk_io_counters()
        except (RuntimeError, OSError):
            counters = None
        if counters is None:
            return None, None
        now, before = time.monotonic(), self._before
        self._before = _Counters(now, counters.read_bytes, counters.write_bytes)
        passed = now - before.when
        if not before.when or passed <= 0:
            return None, None
        read, written = counters.read_bytes - before.read, counters.write_bytes - before.written
        return max(0, read) / passed, max(0, written) / passed
