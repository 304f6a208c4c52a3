"""Containers among the data of the large code model, as cuFFT 12 has them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bringup.binaries.report import BinaryReport, scan_file


def _with_large_data(source: Path, data: bytes, folder: Path) -> Path:
    (folder / "data").write_bytes(data)
    library = folder / "library.so"
    flags = ["--set-section-flags", ".ldata=alloc,data", "--set-section-alignment", ".ldata=32"]
    add = ["--add-section", f".ldata={folder / 'data'}"]
    subprocess.run(["objcopy", *add, *flags, str(source), str(library)], check=True)
    return library


@pytest.mark.slow
def test_containers_between_other_data(fixtures: Path, tmp_path: Path) -> None:
    container = (fixtures / "both.fatbin").read_bytes()
    # Constants of other kinds lie between containers; each is aligned to 8 bytes.
    data = b"\1" * 1000 + container + b"\2" * 100_000 + container + b"\3" * 64
    source = fixtures / "many.so"
    alone, report = scan_file(source), scan_file(_with_large_data(source, data, tmp_path))
    assert isinstance(alone, BinaryReport)
    assert isinstance(report, BinaryReport)
    assert len(report.containers) == len(alone.containers) + 2
    assert report.containers[-1].images == report.containers[-2].images
    assert "compute_90" in report.ptx
    assert "compute_90" not in alone.ptx
    assert report.damage is None


@pytest.mark.slow
def test_megabytes_of_other_data_are_not_searched(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fixtures / "many.so"
    library = _with_large_data(source, b"\1" * (40 << 20), tmp_path)
    read, pread = 0, os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        nonlocal read
        data = pread(descriptor, length, offset)
        read += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    report, alone = scan_file(library), scan_file(source)
    assert isinstance(report, BinaryReport)
    assert isinstance(alone, BinaryReport)
    assert report.machine_code == alone.machine_code
    assert read < 4 << 20
