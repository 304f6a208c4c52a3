"""Containers among the data of the large code model, as cuFFT 12 has them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bringup.binaries.report import BinaryReport, scan_file


@pytest.mark.slow
def test_containers_between_other_data(fixtures: Path, tmp_path: Path) -> None:
    container = (fixtures / "both.fatbin").read_bytes()
    data = tmp_path / "data"
    # Constants of other kinds lie between containers; each is aligned to 8 bytes.
    data.write_bytes(b"\1" * 1000 + container + b"\2" * 100_000 + container + b"\3" * 64)
    library = tmp_path / "library.so"
    add = f".ldata={data}"
    flags = ["--set-section-flags", ".ldata=alloc,data", "--set-section-alignment", ".ldata=32"]
    source = fixtures / "many.so"
    subprocess.run(["objcopy", "--add-section", add, *flags, str(source), str(library)], check=True)
    alone, report = scan_file(source), scan_file(library)
    assert isinstance(alone, BinaryReport)
    assert isinstance(report, BinaryReport)
    assert len(report.containers) == len(alone.containers) + 2
    assert report.containers[-1].images == report.containers[-2].images
    assert "compute_90" in report.ptx
    assert "compute_90" not in alone.ptx
    assert report.damage is None
