"""Real kernels, compiled by nvcc for every suffix, read back and judged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bringup.binaries.architectures import ComputeCapability
from bringup.binaries.fatbin import Compression
from bringup.binaries.model import BinaryReport
from bringup.binaries.report import scan_file

from .builds import BUILDS, KERNELS, Build
from .toolkit import Toolkit

SMALL = {name: build for name, build in BUILDS.items() if build.small}


def _read(path: Path) -> BinaryReport:
    report = scan_file(path)
    assert isinstance(report, BinaryReport), report
    assert report.damage is None
    return report


def _check(report: BinaryReport, build: Build) -> None:
    assert (report.machine_code, report.machine_code_in_all, report.ptx) == (
        build.machine_code,
        build.in_all,
        build.ptx,
    )
    for chip, status in build.runs_on.items():
        assert report.runs_on(ComputeCapability.parse(chip)).status == status, chip


@pytest.mark.parametrize("name", SMALL)
def test_kernels_of_the_tree(fixtures: Path, name: str) -> None:
    report = _read(fixtures / f"{name}.so")
    _check(report, SMALL[name])
    assert report.cuda_runtime is not None
    assert (report.cuda_runtime.library, report.cuda_runtime.major) == ("libcudart.so.13", 13)
    assert not report.torch_extension
    assert report.machine == "x86_64"


@pytest.mark.parametrize(
    ("name", "kind", "code", "ptx"),
    [
        ("sm_75.cubin", "cubin", ("sm_75",), ()),
        ("sm_90a.cubin", "cubin", ("sm_90a",), ()),
        ("sm_100f.cubin", "cubin", ("sm_100f",), ()),
        ("f.ptx", "ptx", (), ("compute_120f",)),
        ("both.fatbin", "fatbin", ("sm_90",), ("compute_90",)),
        ("unlinked.o", "object", ("sm_86",), ("compute_86",)),
        ("static.a", "static-library", ("sm_86",), ("compute_86",)),
    ],
)
def test_bare_device_code(
    fixtures: Path, name: str, kind: str, code: tuple[str, ...], ptx: tuple[str, ...]
) -> None:
    report = _read(fixtures / name)
    assert (report.kind, report.machine_code, report.ptx) == (kind, code, ptx)
    assert report.relocatable == (kind in ("object", "static-library"))


def test_ptx_version_and_compression_are_read(fixtures: Path) -> None:
    ways = {}
    for mode in ("none", "speed", "size"):
        (container,) = _read(fixtures / f"compressed-{mode}.so").containers
        ptx, code = container.entries
        assert ptx.isa == (9, 0)
        assert code.isa is None
        ways[mode] = ptx.compression
    assert ways == {"none": None, "speed": Compression.LZ4, "size": Compression.ZSTD}


def test_a_file_cut_off_is_named(fixtures: Path, tmp_path: Path) -> None:
    whole = (fixtures / "many.so").read_bytes()
    for length in (0, 3, 16, 100, 4000, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / "cut.so"
        cut.write_bytes(whole[:length])
        report = scan_file(cut)
        assert not isinstance(report, BinaryReport), length
        assert report.reason


def test_a_container_that_claims_too_much_keeps_what_is_there(fixtures: Path, tmp_path: Path) -> None:
    data = bytearray((fixtures / "two-units.so").read_bytes())
    at = data.find(struct.pack("<I", 0xBA55ED50))
    struct.pack_into("<Q", data, at + 8, 1 << 60)
    lying = tmp_path / "lying.so"
    lying.write_bytes(data)
    report = scan_file(lying)
    assert isinstance(report, BinaryReport)
    assert "cut off" in (report.damage or "")
    assert "sm_80" in report.machine_code


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BUILDS if name not in SMALL])
def test_compiled_now(toolkit: Toolkit, tmp_path: Path, name: str) -> None:
    _check(_read(toolkit.build(BUILDS[name], tmp_path, name)), BUILDS[name])


@pytest.mark.slow
def test_a_static_runtime_is_recognised(toolkit: Toolkit, tmp_path: Path) -> None:
    (tmp_path / "k.cu").write_text(KERNELS["scale"])
    flags = ("-arch=sm_90", "-shared", "-Xcompiler", "-fPIC", "-cudart", "static", "-L", toolkit.root / "lib")
    toolkit.nvcc(*flags, "k.cu", "-o", "static.so", folder=tmp_path)
    runtime = _read(tmp_path / "static.so").cuda_runtime
    assert runtime is not None
    assert (runtime.linkage, runtime.library) == ("static", None)


@pytest.mark.slow
def test_link_time_code_alone_runs_nowhere(toolkit: Toolkit, tmp_path: Path) -> None:
    (tmp_path / "k.cu").write_text(KERNELS["scale"])
    flags = ("-gencode", "arch=compute_90,code=lto_90", "-dc", "-Xcompiler", "-fPIC")
    toolkit.nvcc(*flags, "k.cu", "-o", "lto.o", folder=tmp_path)
    report = _read(tmp_path / "lto.o")
    assert report.has_device_code
    assert (report.machine_code, report.ptx) == ((), ())
    assert report.runs_on(ComputeCapability(9, 0)).status == "no"


@pytest.mark.slow
def test_the_fixtures_are_what_the_compiler_makes(toolkit: Toolkit, tmp_path: Path, fixtures: Path) -> None:
    built = _read(toolkit.build(BUILDS["many"], tmp_path, "many", strip=True))
    kept = _read(fixtures / "many.so")
    assert [c.entries for c in built.containers] == [c.entries for c in kept.containers]
