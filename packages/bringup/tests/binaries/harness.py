"""What is fuzzed: each reader takes any bytes and ends with a result or with `Damaged`, nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from bringup.binaries import elf, pe, tar
from bringup.binaries.architectures import ComputeCapability
from bringup.binaries.elf_symbols import defined_symbols, undefined_symbols
from bringup.binaries.examine import examine
from bringup.binaries.fatbin import read_containers
from bringup.binaries.model import BinaryReport, Unreadable
from bringup.binaries.report import scan_path
from bringup.binaries.source import BytesSource, Damaged
from bringup.binaries.streams import decompressed


def _use(report: BinaryReport) -> None:
    """Everything that callers ask of a report."""
    chips = [ComputeCapability(9, 0), ComputeCapability(12, 0)]
    assert [report.runs_on(chip).status for chip in chips]
    assert isinstance((report.machine_code, report.machine_code_in_all, report.ptx), tuple)


def fuzz_examine(data: bytes) -> None:
    """A file of any kind."""
    try:
        _use(examine(BytesSource(data), "fuzz.ptx"))
    except Damaged:
        return


def fuzz_elf(data: bytes) -> None:
    """An ELF file, its symbols too."""
    source = BytesSource(data)
    try:
        facts = elf.read_elf(source)
    except Damaged:
        return
    names = [symbol.name for symbol in undefined_symbols(source, facts)[:20]]
    defined_symbols(source, facts, ["launch_scale", "main", *names])


def fuzz_pe(data: bytes) -> None:
    """A PE file."""
    try:
        pe.read_pe(BytesSource(data))
    except Damaged:
        return


def fuzz_fatbin(data: bytes) -> None:
    """A run of containers."""
    try:
        for container in read_containers(BytesSource(data)):
            assert container.images is not None
    except Damaged:
        return


def fuzz_tar(data: bytes) -> None:
    """A layer, compressed or not."""
    try:
        with decompressed(BytesSource(data)) as source:
            for member in tar.members(source):
                assert ".." not in member.path.split("/")
    except Damaged:
        return


def _fuzz_archive(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        for row in scan_path(path):
            if isinstance(row, BinaryReport):
                _use(row)
            else:
                assert isinstance(row, Unreadable)
                assert row.reason


def fuzz_wheel(data: bytes) -> None:
    """A wheel on disk."""
    _fuzz_archive(data, "fuzz.whl")


def fuzz_image(data: bytes) -> None:
    """A container image on disk."""
    _fuzz_archive(data, "fuzz.tar")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "examine": fuzz_examine,
    "elf": fuzz_elf,
    "pe": fuzz_pe,
    "fatbin": fuzz_fatbin,
    "tar": fuzz_tar,
    "wheel": fuzz_wheel,
    "image": fuzz_image,
}
