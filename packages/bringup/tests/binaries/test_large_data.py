"""Containers among other data, as cuFFT 12 has them."""

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


def _without_cuda(folder: Path) -> Path:
    (folder / "plain.c").write_text("int plain = 1;\n")
    library = folder / "plain.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(folder / "plain.c")], check=True)
    return library


@pytest.mark.parametrize("section", [".ldata", ".data"])
def test_containers_in_data_alone(fixtures: Path, tmp_path: Path, section: str) -> None:
    """As in cuFFT 12.5, which has no section of fat binaries."""
    container = (fixtures / "both.fatbin").read_bytes()
    (tmp_path / "data").write_bytes(b"\1" * 64 + container + b"\2" * 4096 + container)
    library = tmp_path / "library.so"
    source = str(_without_cuda(tmp_path))
    change = ["--remove-section", section, "--add-section", f"{section}={tmp_path / 'data'}"]
    kind = ["--set-section-flags", f"{section}=alloc,data", "--set-section-alignment", f"{section}=32"]
    subprocess.run(["objcopy", *change, *kind, source, str(library)], check=True)
    report = scan_file(library)
    assert isinstance(report, BinaryReport)
    assert len(report.containers) == 2
    assert "compute_90" in report.ptx


def test_a_number_that_looks_like_a_container_is_data(tmp_path: Path) -> None:
    (tmp_path / "plain.c").write_text("unsigned plain[64] = {0xba55ed50, 0x00100001, 0xffffff, 0};\n")
    library = tmp_path / "plain.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "plain.c")], check=True)
    report = scan_file(library)
    assert isinstance(report, BinaryReport)
    assert not report.containers
    assert report.damage is None
