"""Samples as CSV: a row a GPU, or one with empty GPU columns; each row is one write at the file's end.

Source: RFC 4180 (lines end with a line feed alone here, as every reader accepts).
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from bringup.errors import BringupError
from bringup.steps.monitor.samples import GpuSample, HostSample, Sample

_HOST = (
    "cpu_percent",
    "cores",
    "memory_used_bytes",
    "memory_total_bytes",
    "swap_used_bytes",
    "swap_total_bytes",
    "disk_free_bytes",
    "disk_read_bytes_per_s",
    "disk_write_bytes_per_s",
)
_GPU = (
    "gpu",
    "gpu_name",
    "gpu_percent",
    "gpu_memory_used_bytes",
    "gpu_memory_total_bytes",
    "gpu_power_w",
    "gpu_power_limit_w",
    "gpu_temperature_c",
    "gpu_clock_mhz",
    "gpu_memory_clock_mhz",
    "gpu_throttle",
)
COLUMNS = ("time", *_HOST, *_GPU)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _host_cells(host: HostSample) -> list[str]:
    values = (
        host.cpu,
        host.cores,
        host.memory_used,
        host.memory_total,
        host.swap_used,
        host.swap_total,
        host.disk_free,
        host.disk_read,
        host.disk_write,
    )
    return [_number(value) for value in values]


def _gpu_cells(gpu: GpuSample | None) -> list[str]:
    if gpu is None:
        return [""] * len(_GPU)
    numbers = (
        gpu.utilization,
        gpu.memory_used,
        gpu.memory_total,
        gpu.power,
        gpu.power_limit,
        gpu.temperature,
        gpu.clock,
        gpu.memory_clock,
    )
    reasons = "" if gpu.throttle is None else "|".join(gpu.throttle)
    return [str(gpu.index), gpu.name, *map(_number, numbers), reasons]


def _line(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8")


def rows(sample: Sample) -> Iterator[bytes]:
    """The sample's lines, encoded."""
    moment = datetime.fromtimestamp(sample.time, tz=timezone.utc).isoformat(timespec="milliseconds")
    host = _host_cells(sample.host)
    for gpu in sample.gpus or (None,):
        yield _line([moment, *host, *_gpu_cells(gpu)])


class CsvFile:
    """A file that grows by whole lines. An existing file of the same columns is continued.

    Raises:
        BringupError: `monitor-csv-other` for a file of other columns, `monitor-csv-unwritable`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        header = _line(list(COLUMNS))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file = os.open(path, flags, 0o644)
            size = os.fstat(self._file).st_size
            if size == 0:
                self._write(header)
                return
            begin = path.open("rb")
        except OSError as error:
            raise BringupError("monitor-csv-unwritable", path=path, text=error.strerror) from error
        with begin:
            first = begin.readline()
            begin.seek(-1, os.SEEK_END)
            torn = begin.read(1) != b"\n"
        if first.replace(b"\r\n", b"\n") != header:
            os.close(self._file)
            raise BringupError("monitor-csv-other", exit_code=2, path=path)
        if torn:
            self._write(b"\n")

    def _write(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written != len(line):
            # A full disk takes part of a line: take it back, so that no torn line stays.
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(28, "No space left on device")

    def add(self, sample: Sample) -> None:
        """Append the sample's rows, each whole or not at all.

        Raises:
            BringupError: `monitor-csv-unwritable`.
        """
        try:
            for line in rows(sample):
                self._write(line)
        except OSError as error:
            raise BringupError("monitor-csv-unwritable", path=self._path, text=error.strerror) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
