"""Wheels and container images: what is in them, what later layers take away, what lies."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bringup.binaries.image_archive import open_image, surviving_files
from bringup.binaries.model import BinaryReport, Unreadable
from bringup.binaries.report import kind_of, scan_path

from . import archives


def _scan(path: Path) -> tuple[dict[str, BinaryReport], list[Unreadable]]:
    rows = list(scan_path(path))
    reports = {row.path.removeprefix(f"{path}/"): row for row in rows if isinstance(row, BinaryReport)}
    return reports, [row for row in rows if isinstance(row, Unreadable)]


@pytest.fixture(scope="module")
def kernel() -> bytes:
    return (Path(__file__).parent / "fixtures" / "many.so").read_bytes()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wheel_is_read_unopened(tmp_path: Path, kernel: bytes, method: int) -> None:
    files = {
        "pkg/_C.so": kernel,
        "pkg/__init__.py": b"",
        "pkg-1.dist-info/RECORD": b"",
        "pkg/fake.so": b"text",
    }
    path = archives.wheel(tmp_path / "pkg-1-py3-none-any.whl", files, method)
    reports, unreadable = _scan(path)
    assert kind_of(path) == "wheel"
    assert list(reports) == ["pkg/_C.so"]
    assert reports["pkg/_C.so"].machine_code == ("sm_75", "sm_86", "sm_90a", "sm_120")
    assert unreadable == []


def test_a_large_member_is_spilled_and_gone(
    tmp_path: Path, kernel: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import random
    import tempfile

    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    large = kernel + random.Random(0).randbytes(20 << 20)
    reports, _ = _scan(archives.wheel(tmp_path / "large.whl", {"a.so": large}))
    assert reports["a.so"].machine_code_in_all == ("sm_75", "sm_86", "sm_90a", "sm_120")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 10, 100, 5000, -30, -1])
def test_a_wheel_cut_off_is_named(tmp_path: Path, kernel: bytes, cut: int) -> None:
    path = archives.wheel(tmp_path / "cut.whl", {"a.so": kernel, "b.so": kernel})
    path.write_bytes(path.read_bytes()[:cut])
    _, unreadable = _scan(path)
    assert [row.path for row in unreadable] == [str(path)]


def _lie(path: Path, offset: int, layout: str, value: int) -> None:
    """Change a field of the first record in the central directory (and leave the local header)."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, data.find(b"PK\1\2") + offset, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("what", "offset", "layout", "value"),
    [
        ("larger", 24, "<I", 1 << 24),
        ("smaller", 24, "<I", 100),
        ("huge", 24, "<I", 0xFFFFFFF0),
        ("packed-huge", 20, "<I", 0x7FFFFFFF),
        ("offset", 42, "<I", 0x7FFFFFFF),
        ("method", 10, "<H", 99),
        ("lzma", 10, "<H", 14),
        ("encrypted", 8, "<H", 1),
    ],
)
def test_a_wheel_that_lies_is_named(
    tmp_path: Path, kernel: bytes, what: str, offset: int, layout: str, value: int
) -> None:
    path = archives.wheel(tmp_path / f"{what}.whl", {"a.so": kernel, "b.so": kernel})
    _lie(path, offset, layout, value)
    _, unreadable = _scan(path)
    assert len(unreadable) >= 1
    assert all(row.reason for row in unreadable)


def test_a_zip_bomb_is_refused_unread(tmp_path: Path, kernel: bytes) -> None:
    bomb = kernel + bytes(300 << 20)
    path = archives.wheel(tmp_path / "bomb.whl", {"bomb.so": bomb, "real.so": kernel})
    assert path.stat().st_size < 1 << 20
    reports, unreadable = _scan(path)
    assert list(reports) == ["real.so"]
    assert "inflate" in unreadable[0].reason


def test_a_directory_of_a_million_records_is_refused(tmp_path: Path) -> None:
    record = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    records = record * 200_000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(records), 0, 0)
    path = tmp_path / "wide.whl"
    path.write_bytes(records + end)
    _, unreadable = _scan(path)
    assert "central directory" in unreadable[0].reason


MAKERS = {"docker": archives.docker_image, "oci": archives.oci_image}


@pytest.mark.parametrize("way", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("layout", MAKERS)
def test_an_image_is_what_its_last_layer_leaves(
    tmp_path: Path, fixtures: Path, kernel: bytes, layout: str, way: str
) -> None:
    other = (fixtures / "family.so").read_bytes()
    layers = [
        {"usr": None, "usr/kept.so": kernel, "usr/changed.so": kernel, "usr/removed.so": kernel,
         "opt/env/lib/a.so": kernel, "gone/deep/b.so": kernel, "swap/c.so": kernel, "./dot.so": kernel},
        {"usr/changed.so": other, "usr/.wh.removed.so": b"", "opt/env/.wh..wh..opq": b"",
         "opt/env/lib/new.so": other, ".wh.gone": b"", "swap": b"->elsewhere"},
        {"usr/text.so": b"not a library", "gone/back.so": other},
    ]  # fmt: skip
    packed = [archives.compress(archives.layer(files), way) for files in layers]
    path = MAKERS[layout](tmp_path / "image.tar", packed)
    assert kind_of(path) == "image"
    reports, unreadable = _scan(path)
    family, many = ("sm_100f", "sm_120f"), ("sm_75", "sm_86", "sm_90a", "sm_120")
    assert {name: row.machine_code for name, row in reports.items()} == {
        "usr/kept.so": many,
        "usr/changed.so": family,
        "opt/env/lib/new.so": family,
        "gone/back.so": family,
        "dot.so": many,
    }
    assert unreadable == []


def test_several_images_of_one_archive(tmp_path: Path, fixtures: Path, kernel: bytes) -> None:
    base = archives.layer({"base.so": kernel, "own.so": kernel})
    own = archives.layer({"own.so": (fixtures / "family.so").read_bytes()})
    path = archives.docker_image(tmp_path / "two.tar", [base], [base, own])
    reports, unreadable = _scan(path)
    family, many = ("sm_100f", "sm_120f"), ("sm_75", "sm_86", "sm_90a", "sm_120")
    assert {name: row.machine_code for name, row in reports.items()} == {
        "x:1/base.so": many,
        "x:1/own.so": many,
        "x:2/base.so": many,
        "x:2/own.so": family,
    }
    assert unreadable == []


def test_a_whole_image_compressed(tmp_path: Path, kernel: bytes) -> None:
    plain = archives.docker_image(tmp_path / "image.tar", [archives.layer({"a.so": kernel})])
    path = tmp_path / "image.tar.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    reports, unreadable = _scan(path)
    assert list(reports) == ["a.so"]
    assert unreadable == []


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, kernel: bytes, style: int) -> None:
    name = "/".join(["d" * 50] * 3) + "/库.so"
    path = archives.docker_image(tmp_path / "image.tar", [archives.layer({name: kernel}, style)])
    reports, _ = _scan(path)
    assert list(reports) == [name]


def test_paths_stay_inside_the_image(tmp_path: Path, kernel: bytes) -> None:
    layer = archives.layer({"../../etc/a.so": kernel, "/abs/b.so": kernel})
    path = archives.docker_image(tmp_path / "image.tar", [layer])
    assert set(_scan(path)[0]) == {"etc/a.so", "abs/b.so"}


def test_links_are_told(tmp_path: Path) -> None:
    layer = archives.layer({"lib64": b"->lib", "lib/x": b"1"})
    path = archives.docker_image(tmp_path / "image.tar", [layer])
    with open_image(path) as image:
        files = {file.path: file.target for file in surviving_files(image, [])}
    assert files == {"lib64": "lib", "lib/x": None}


@pytest.mark.parametrize("way", ["plain", "gzip", "zstd"])
def test_a_broken_layer_is_named_and_the_others_read(tmp_path: Path, kernel: bytes, way: str) -> None:
    good = archives.compress(archives.layer({"good.so": kernel}), way)
    broken = archives.compress(archives.layer({"lost.so": kernel}), way)
    broken = broken[: len(broken) // 3]
    path = archives.docker_image(tmp_path / "image.tar", [good, broken])
    reports, unreadable = _scan(path)
    assert "good.so" in reports
    assert any("layer 2" in row.path or "lost.so" in row.path for row in unreadable)


@pytest.mark.parametrize("first", ["manifest.json", "index.json"])
def test_an_archive_cut_between_its_members_is_never_whole(tmp_path: Path, kernel: bytes, first: str) -> None:
    layers = [archives.layer({"good.so": kernel}), archives.layer({"lost.so": kernel})]
    write = archives.docker_image if first == "manifest.json" else archives.oci_image
    whole = write(tmp_path / "whole.tar", layers)
    with tarfile.open(whole) as tar:
        rows = {row.name: tar.extractfile(row).read() for row in tar if row.isfile()}  # type: ignore[union-attr]
    # skopeo and some builders put the manifest ahead of the layers.
    rows = {first: rows[first]} | {name: data for name, data in rows.items() if name != first}
    data = archives.layer(rows)
    path = tmp_path / "cut.tar"
    path.write_bytes(data)
    with tarfile.open(path) as tar:
        cuts = [row.offset for row in tar]
    files, unreadable = _scan(path)
    assert sorted(files) == ["good.so", "lost.so"]
    assert unreadable == []
    for cut in cuts[1:]:
        path.write_bytes(data[:cut])
        files, unreadable = _scan(path)
        missing = {"good.so", "lost.so"} - set(files)
        assert unreadable or not missing


def test_a_layer_cut_between_its_files_is_told(tmp_path: Path, kernel: bytes) -> None:
    layer = archives.layer({"good.so": kernel, "lost.so": kernel})
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        second = [row.offset for row in tar][1]
    path = archives.docker_image(tmp_path / "image.tar", [layer[:second]])
    files, unreadable = _scan(path)
    assert list(files) == ["good.so"]
    assert "without an archive's last block" in unreadable[0].reason


def test_a_tar_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.tar"
    path.write_bytes(archives.layer({"a.txt": b"1"}))
    _, unreadable = _scan(path)
    assert "no image archive" in unreadable[0].reason


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"{}", b"[[1]]", b'[{"Layers": ["x"]}]', b'[{"Layers": 5}]', b"[" * 100_000]
)
def test_a_manifest_without_sense_is_named(tmp_path: Path, manifest: bytes) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(archives.layer({"manifest.json": manifest or b" "}))
    _, unreadable = _scan(path)
    assert [row.path.startswith(str(path)) for row in unreadable] == [True]


def test_an_index_that_names_itself_ends(tmp_path: Path) -> None:
    index = json.dumps({"manifests": [{"digest": "sha256:a"}]}).encode()
    path = tmp_path / "image.tar"
    path.write_bytes(archives.layer({"index.json": index, "blobs/sha256/a": index}))
    assert "nested" in _scan(path)[1][0].reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("requirement", "platform", "member", "code", "ptx"),
    [
        ("torchvision==0.28.0", ("--platform=manylinux_2_28_x86_64", "--python-version=3.11"),
         "torchvision/_C.so", "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120", "compute_120"),
        ("torchvision==0.28.0", ("--platform=win_amd64", "--python-version=3.11"), "torchvision/_C.pyd", "", ""),
        ("nvidia-nvjpeg-cu12==12.4.0.76", ("--platform=win_amd64",), "nvidia/nvjpeg/bin/nvjpeg64_12.dll",
         "sm_50 sm_52 sm_60 sm_61 sm_70 sm_75 sm_80 sm_86 sm_89 sm_90 sm_100 sm_101 sm_103 sm_120 sm_121",
         "compute_121"),
    ],
)  # fmt: skip
def test_published_wheels(
    wheel: Callable[..., Path],
    requirement: str,
    platform: tuple[str, ...],
    member: str,
    code: str,
    ptx: str,
) -> None:
    path = wheel(requirement, *platform)
    reports, unreadable = _scan(path)
    assert unreadable == []
    report = reports[member]
    assert report.machine_code_in_all == report.machine_code == tuple(code.split())
    assert report.ptx == tuple(ptx.split())
    if requirement.startswith("torchvision"):
        assert report.torch_extension
        assert len(report.containers) == (7 if code else 0)
        assert not any(row.torch_extension for name, row in reports.items() if "/lib" in name)
    else:
        assert report.kind == "pe"
        assert report.cuda_runtime is not None
        assert report.cuda_runtime.linkage == "static"
