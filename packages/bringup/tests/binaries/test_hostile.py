"""Hostile bytes: nothing but a result or `Damaged`, in bounded time and memory."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bringup.binaries.examine import examine, runtime_of
from bringup.binaries.fatbin import MAGIC_BYTES, read_containers
from bringup.binaries.source import BytesSource, Damaged

from . import archives
from .harness import TARGETS

FIXTURES = Path(__file__).parent / "fixtures"
CORPUS = Path(__file__).parents[1] / "fuzz" / "binaries_corpus.zip"
# Values that stand where sizes, offsets and counts are compared.
EDGES = [0, 1, 7, 8, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def _seeds() -> dict[str, list[bytes]]:
    kernel = (FIXTURES / "two-units.so").read_bytes()
    pe = _small_pe()
    start = kernel.find(MAGIC_BYTES)
    layer = archives.layer({"a.so": kernel[:3000], "lib": b"->usr/lib"})
    return {
        "elf": [kernel, (FIXTURES / "unlinked.o").read_bytes()],
        "examine": [(FIXTURES / name).read_bytes() for name in ("static.a", "sm_90a.cubin", "both.fatbin")],
        "fatbin": [kernel[start : start + 9000]],
        "pe": [pe],
        "tar": [layer, archives.compress(layer, "gzip"), archives.compress(layer, "zstd")],
    }


def _small_pe() -> bytes:
    """A PE file with one fat binary section and one import, by the format's own description."""
    containers = (FIXTURES / "both.fatbin").read_bytes()
    optional = bytearray(240)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<II", optional, 112 + 8, 0x4000, 40)
    sections = [(b".nv_fatb", 0x1000, 0x400, containers), (b".rdata", 0x4000, 0x400 + len(containers), b"")]
    imports = struct.pack("<IIIII", 0, 0, 0, 0x4028, 0) + bytes(20) + b"cudart64_12.dll\0"
    sections[1] = (*sections[1][:3], imports)
    header = b"MZ" + bytes(58) + struct.pack("<I", 64)
    header += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 2, 0, 0, 0, len(optional), 0x2022) + optional
    for name, address, offset, data in sections:
        header += struct.pack("<8sIIIIIIHHI", name, len(data), address, len(data), offset, 0, 0, 0, 0, 0)
    return header.ljust(0x400, b"\0") + containers + imports


def test_a_pe_by_the_book_is_read() -> None:
    report = examine(BytesSource(_small_pe()), "x.pyd")
    assert (report.kind, report.machine_code, report.ptx) == ("pe", ("sm_90",), ("compute_90",))
    assert report.needed == ("cudart64_12.dll",)
    assert report.cuda_runtime is not None
    assert (report.cuda_runtime.library, report.cuda_runtime.major) == ("cudart64_12.dll", 12)


SEEDS = _seeds()
_QUICK = settings(max_examples=150, deadline=2000, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("target", TARGETS)
@_QUICK
@given(data=st.binary(max_size=4096))
def test_random_bytes(target: str, data: bytes) -> None:
    magic = {"elf": b"\x7fELF\2\1\1", "pe": b"MZ", "fatbin": MAGIC_BYTES, "wheel": b"PK\3\4"}.get(target, b"")
    TARGETS[target](data)
    TARGETS[target](magic + data)


@st.composite
def _changes(draw: st.DrawFn) -> tuple[int, float, list[tuple[float, int, int]], float]:
    place = st.floats(0, 1, exclude_max=True)
    change = st.tuples(place, st.sampled_from([1, 2, 4, 8]), st.sampled_from(EDGES) | st.integers(0, 255))
    return (
        draw(st.integers(0, 9)),
        draw(st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.5, 0.1])),
        draw(st.lists(change, max_size=6)),
        draw(st.sampled_from([1.0, 0.05, 0.01])),
    )


@pytest.mark.parametrize("target", SEEDS)
@settings(max_examples=300, deadline=2000, suppress_health_check=list(HealthCheck))
@given(changes=_changes())
def test_changed_files(target: str, changes: tuple[int, float, list[tuple[float, int, int]], float]) -> None:
    """Real files with fields set to extremes, most often in the headers, and with their ends cut off."""
    which, kept, fields, span = changes
    data = bytearray(SEEDS[target][which % len(SEEDS[target])])
    for place, width, value in fields:
        at = int(place * span * (len(data) - 8))
        data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    TARGETS[target](bytes(data[: int(len(data) * kept)]))
    TARGETS["examine"](bytes(data))


def _nested(count: int, entries: int) -> bytes:
    entry = struct.pack("<HHIQ", 2, 1, 64, 0) + bytes(12) + struct.pack("<I", 90) + bytes(32)
    body = entry * entries
    return (struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body) * count


@pytest.mark.parametrize(("count", "entries"), [(1, 400_000), (400_000, 0), (2_000, 200)])
def test_giant_counts_are_refused(count: int, entries: int) -> None:
    with pytest.raises(Damaged, match="more than"):
        list(read_containers(BytesSource(_nested(count, entries))))


def test_a_container_that_reaches_over_others_hides_them_once() -> None:
    inner = _nested(3, 1)
    outer = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(inner)) + inner
    assert len(list(read_containers(BytesSource(outer)))) == 1


def test_sections_over_one_another_are_bounded(tmp_path: Path) -> None:
    """A thousand `.nv_fatbin` sections over the same bytes are not read a thousand times."""
    names = b"\0.nv_fatbin\0"
    body = _nested(50, 10)
    count = 1_000
    table_at = 64 + len(names) + len(body)
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, table_at, 0, 64, 0, 0, 64, count, 1)
    row = struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, 64 + len(names), len(body), 0, 0, 0, 0)
    strings = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 64, len(names), 0, 0, 0, 0)
    data = header + names + body + row + strings + row * (count - 2)
    with pytest.raises(Damaged, match="over one another"):
        examine(BytesSource(data), "x.so")


@pytest.mark.parametrize("target", TARGETS)
def test_the_kept_corpus(target: str) -> None:
    """What the coverage-guided fuzzer found worth keeping (see tests/fuzz/fuzz_binaries.py)."""
    with zipfile.ZipFile(CORPUS) as corpus:
        files = [name for name in corpus.namelist() if name.startswith(f"{target}/")]
        assert files
        for name in files:
            started = time.monotonic()
            TARGETS[target](corpus.read(name))
            assert time.monotonic() - started < 2, name


_LIMITED = """
import resource, sys
from pathlib import Path
from bringup.binaries.report import scan_path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = list(scan_path(Path(sys.argv[1])))
print(len(rows), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def _memory(path: Path) -> int:
    """Kilobytes that a scan adds at its highest, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout.split()[1])


def _sparse(path: Path, head: bytes, size: int) -> Path:
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(size)
    return path


def _huge_symbols(path: Path) -> Path:
    """A library whose section table claims symbols and strings of terabytes in a sparse file."""
    data = bytearray((FIXTURES / "many.so").read_bytes())
    (table,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    for index in range(1, count):
        struct.pack_into("<Q", data, table + 64 * index + 32, 1 << 40)
    return _sparse(path, bytes(data), 1 << 42)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: _sparse(folder / "zeros.so", b"\x7fELF\2\1\1", 1 << 42),
        lambda folder: _sparse(folder / "zeros.tar", archives.layer({"manifest.json": b"[]"}), 1 << 40),
        lambda folder: _sparse(folder / "zeros.whl", b"PK\3\4", 1 << 40),
        lambda folder: _sparse(folder / "runs.fatbin", _nested(100_000, 1), 4 << 30),
        lambda folder: _huge_symbols(folder / "symbols.so"),
    ],
    ids=["elf", "image", "wheel", "fatbin", "symbols"],
)
def test_memory_and_time_are_bounded(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    started = time.monotonic()
    assert _memory(make(tmp_path)) < 200_000
    assert time.monotonic() - started < 30


def test_a_layer_bomb_is_bounded(tmp_path: Path) -> None:
    bomb = archives.compress(archives.layer({"a.bin": bytes(64 << 20)}), "gzip")
    path = archives.docker_image(tmp_path / "image.tar", [bomb])
    assert _memory(path) < 200_000


@pytest.mark.slow
@pytest.mark.parametrize("target", ["wheel", "image"])
def test_changed_archives(target: str, tmp_path: Path) -> None:
    """Wheels and images with bytes changed at random, many of them."""
    kernel = (FIXTURES / "two-units.so").read_bytes()
    if target == "wheel":
        whole = archives.wheel(tmp_path / "a", {"a.so": kernel, "b/c.txt": b"1"}).read_bytes()
    else:
        layers = [archives.compress(archives.layer({"a.so": kernel}), way) for way in ("plain", "zstd")]
        whole = archives.docker_image(tmp_path / "a", layers).read_bytes()
    source = random.Random(target)
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(source.randint(1, 8)):
            data[source.randrange(len(data))] = source.choice([0, 1, 0x7F, 0xFF, source.randrange(256)])
        TARGETS[target](bytes(data[: source.choice([len(data), source.randrange(len(data))])]))


@pytest.mark.parametrize(
    ("library", "major"),
    [
        ("libcudart.so.13", 13),
        ("libcudart.so.11.0", 11),
        ("libcudart-5a077122.so.12.0.107", 12),  # as auditwheel copies it into a wheel
        ("libcudart-1234567a.so", None),
        ("cudart64_12.dll", 12),
        ("cudart64_110.dll", 11),
        ("cudart64_12-0123456789abcdef0123456789abcdef.dll", 12),  # delvewheel
    ],
)
def test_names_of_the_runtime(library: str, major: int | None) -> None:
    runtime = runtime_of(("libc.so.6", library))
    assert runtime is not None and (runtime.library, runtime.major) == (library, major)
