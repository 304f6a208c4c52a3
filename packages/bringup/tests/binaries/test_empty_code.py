"""Translation units without a kernel: nvcc leaves a container that no chip needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bringup.binaries.architectures import ComputeCapability
from bringup.binaries.empty_code import holds_no_function, unpack_lz4
from bringup.binaries.report import BinaryReport, scan_file

from .toolkit import Toolkit


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "speed", "balance", "size"])
def test_unit_without_a_kernel_does_not_count(toolkit: Toolkit, tmp_path: Path, mode: str) -> None:
    (tmp_path / "host.cu").write_text("int answer() { return 42; }\n")
    (tmp_path / "kernel.cu").write_text("__global__ void nothing() {}\n")
    chip = ComputeCapability(12, 0)
    for name, arch, counts in (("host", "75", False), ("kernel", "120", True)):
        target = f"arch=compute_{arch},code=sm_{arch}"
        compress = ("-Xfatbin", f"-compress-mode={mode}")
        toolkit.nvcc(
            "-fatbin", "-gencode", target, *compress, f"{name}.cu", "-o", f"{name}.fatbin", folder=tmp_path
        )
        report = scan_file(tmp_path / f"{name}.fatbin")
        assert isinstance(report, BinaryReport)
        assert report.machine_code == (f"sm_{arch}",)
        assert report.has_device_code == counts
    both = tmp_path / "both.fatbin"
    both.write_bytes((tmp_path / "host.fatbin").read_bytes() + (tmp_path / "kernel.fatbin").read_bytes())
    joined = scan_file(both)
    assert isinstance(joined, BinaryReport)
    assert len(joined.containers) == 2
    assert joined.runs_on(chip).status == "machine-code"
    assert joined.machine_code_in_all == ("sm_120",)


def test_lz4_block_of_the_format_description() -> None:
    """Eleven literals, a match that overlaps itself, and the five literals that end every block."""
    block = bytes([0xB0 | 6]) + b"hello world" + bytes([6, 0]) + bytes([0x50]) + b"dlrow"
    assert unpack_lz4(block) == b"hello world" + (b" world" * 2)[:10] + b"dlrow"
    assert unpack_lz4(bytes([0x1F]) + b"a" + bytes([1, 0, 255, 0]) + bytes([0])) == b"a" * (1 + 15 + 255 + 4)


@given(st.binary(max_size=2048), st.sampled_from([0, 0x2000, 0x8000]))
def test_damaged_payloads_are_taken_for_code(payload: bytes, flags: int) -> None:
    assert not holds_no_function(payload, flags)
