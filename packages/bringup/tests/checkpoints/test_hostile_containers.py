"""Archives that could be read in two ways, bombs, and tensors that cannot be."""

from __future__ import annotations

import io
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bringup.checkpoints import convert, open_checkpoint
from bringup.errors import BringupError

from . import attacks


def refused(path: Path) -> BringupError:
    """The error with which a file is refused; nothing is left behind."""
    out = path.parent / "out"
    with pytest.raises(BringupError) as caught:
        convert(path, out)
    assert not out.exists() or not any(out.iterdir())
    return caught.value


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytearray:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as made:
        for name, data in members:
            made.writestr(name, data)
    return bytearray(stream.getvalue())


GOOD = pickle.dumps({"a": 1}, 2)
EVIL = attacks.CALLS["reduce"]


def _place(data: bytearray, magic: bytes, field: int) -> int:
    return data.find(magic) + field


def _patched(data: bytearray, magic: bytes, field: int, value: bytes) -> bytes:
    start = _place(data, magic, field)
    data[start : start + len(value)] = value
    return bytes(data)


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def _ambiguous() -> dict[str, bytes]:
    one = ("a/data.pkl", GOOD)
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = archive(one, ("a/data.pkl", EVIL))
    return {
        "duplicate_members": bytes(twice),
        "capital_letters": bytes(archive(one, ("a/DATA.pkl", EVIL))),
        "two_pickles": bytes(archive(one, ("b/data.pkl", EVIL))),
        "parent_folder": bytes(archive(one, ("../../etc/cron.d/x", b"x"))),
        "absolute": bytes(archive(one, ("/etc/passwd", b"x"))),
        "backslash": bytes(archive(one, ("a\\..\\x", b"x"))),
        "drive": bytes(archive(one, ("C:x", b"x"))),
        "control_character": bytes(archive(one, ("a/\x1b[2J", b"x"))),
        "other_local_name": _patched(archive(one), LOCAL, 30, b"b/data.pkl"),
        "other_local_size": _patched(archive(one), LOCAL, 18, struct.pack("<2L", 3, 3)),
        "other_local_method": _patched(archive(one), LOCAL, 8, b"\x08\0"),
        "unknown_method": _patched(_patched_array(archive(one), LOCAL, 8), CENTRAL, 10, b"\x63\0"),
        "header_elsewhere": _patched(archive(one), CENTRAL, 42, struct.pack("<L", 5)),
        "two_disks": _patched(archive(one), END, 4, b"\x01\0"),
        "more_entries_than_there_are": _patched(archive(one), END, 8, struct.pack("<2H", 5, 5)),
        "directory_elsewhere": _patched(archive(one), END, 16, struct.pack("<L", 3)),
        "bytes_before": b"PK\x03\x04junk" + bytes(archive(one)),
        "two_names": _with_extra(struct.pack("<HHBL", 0x7075, 5 + 10, 1, 0) + b"b/data.pkl"),
        "wide_sizes_twice": _with_extra(struct.pack("<HHQHHQ", 1, 8, 3, 1, 8, 4)),
        "two_ends": _two_ends(),
        "bytes_behind": bytes(archive(one)) + b"junk",
        "pickle_before_zip": EVIL + bytes(archive(one)),
        "legacy_before_zip": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + bytes(archive(one)),
        "member_over_directory": _patched(
            _patched_array(archive(one), LOCAL, 18, struct.pack("<2L", 80, 80)),
            CENTRAL,
            20,
            struct.pack("<2L", 80, 80),
        ),
        "byte_order_of_neither_kind": bytes(archive(one, ("a/byteorder", b"middle"))),
    }


def _with_extra(extra: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        member = zipfile.ZipInfo("a/data.pkl")
        member.extra = extra
        made.writestr(member, GOOD)
    return stream.getvalue()


def _two_ends() -> bytes:
    """A good archive whose comment holds the end of an evil one: readers take the last end, whatever it says."""

    def directory(start: int, data: bytearray) -> bytes:
        body = bytearray(data[data.find(CENTRAL) : data.find(END)])
        body[42:46] = struct.pack("<L", start)
        return bytes(body)

    evil, good = archive(("a/data.pkl", EVIL)), archive(("a/data.pkl", GOOD))
    bodies = bytes(evil[: evil.find(CENTRAL)]), bytes(good[: good.find(CENTRAL)])
    directories = directory(0, evil), directory(len(bodies[0]), good)
    first = sum(map(len, bodies))
    inner = struct.pack("<4s4H2LH", END, 0, 0, 1, 1, len(directories[0]), first, 0) + b"x"
    second = first + len(directories[0])
    outer = struct.pack("<4s4H2LH", END, 0, 0, 1, 1, len(directories[1]), second, len(inner))
    return b"".join([*bodies, *directories, outer, inner])


def _patched_array(data: bytearray, magic: bytes, field: int, value: bytes = b"\x63\0") -> bytearray:
    return bytearray(_patched(data, magic, field, value))


AMBIGUOUS = _ambiguous()


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_archives(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(AMBIGUOUS[name])
    assert refused(path).id == "checkpoint-ambiguous"


@pytest.mark.parametrize("magic, field", [(LOCAL, 6), (CENTRAL, 8)])
@pytest.mark.parametrize("flag", [1, 0x40, 0x2000])
def test_encryption_flags(magic: bytes, field: int, flag: int, tmp_path: Path) -> None:
    """Scanners that trust the flag stop; PyTorch reads on."""
    path = tmp_path / "x.pt"
    path.write_bytes(_patched(archive(("a/data.pkl", GOOD)), magic, field, struct.pack("<H", flag)))
    assert refused(path).id == "checkpoint-encrypted"


def test_a_wrong_checksum_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    data = archive(("a/data.pkl", EVIL))
    path.write_bytes(_patched(_patched_array(data, LOCAL, 14, b"\0\0\0\0"), CENTRAL, 16, b"\0\0\0\0"))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.verdict == "unneeded-calls"


def test_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    zeros = bytes(200 * 2**20)
    path.write_bytes(archive(("a/data.pkl", GOOD), ("a/data/0", zeros), compression=zipfile.ZIP_DEFLATED))
    started = time.monotonic()
    error = refused(path)
    assert error.id == "checkpoint-zip-bomb" and error.parameters["member"] == "a/data/0"
    assert time.monotonic() - started < 1


def test_overlapping_members(tmp_path: Path) -> None:
    """One stretch of bytes under many names: a bomb without compression of its own."""
    data = archive(("a/data.pkl", GOOD), ("a/data/0", b"x" * 60), ("a/data/1", b"y" * 60))
    second = data.find(LOCAL, 10)
    third = data.find(LOCAL, second + 4)
    directory = data.find(b"a/data/1", data.find(CENTRAL)) - 46
    data[third + 30 : third + 38] = b"a/data/1"
    data[directory + 42 : directory + 46] = struct.pack("<L", second)
    data[second + 30 : second + 38] = b"a/data/1"
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    assert refused(path).id in ("checkpoint-zip-bomb", "checkpoint-ambiguous")


def test_a_member_that_inflates_to_more_than_it_says(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(1_000_000)) + packer.flush()
    data = archive(("a/data.pkl", GOOD), compression=zipfile.ZIP_DEFLATED)
    body = data.find(b"a/data.pkl") + 10
    size = struct.unpack_from("<L", data, 18)[0]
    data[body : body + size] = packed[:size]
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    assert refused(path).id == "checkpoint-malformed"


def hostile(*storage: Any, arguments: tuple[Any, ...], data: bytes = bytes(16)) -> bytes:
    """A zip checkpoint with one tensor whose description is not true."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 2)
    marker = object()
    pickler.persistent_id = lambda value: ("storage", *storage) if value is marker else None  # type: ignore[method-assign]
    function = torch._utils._rebuild_tensor_v2
    pickler.dump({"w": attacks.Reducing(function, (marker, *arguments))})
    return bytes(archive(("a/data.pkl", stream.getvalue()), ("a/data/0", data)))


F32 = torch.FloatStorage
LIES: dict[str, bytes] = {
    "storage_larger_than_its_bytes": hostile(F32, "0", "cpu", 1000, arguments=(0, (4,), (1,), False, {})),
    "storage_of_negative_size": hostile(F32, "0", "cpu", -4, arguments=(0, (4,), (1,), False, {})),
    "storage_of_enormous_size": hostile(F32, "0", "cpu", 2**62, arguments=(0, (4,), (1,), False, {})),
    "storage_that_is_not_there": hostile(F32, "7", "cpu", 4, arguments=(0, (4,), (1,), False, {})),
    "storage_outside_of_the_folder": hostile(
        F32, "../data.pkl", "cpu", 4, arguments=(0, (4,), (1,), False, {})
    ),
    "storage_key_of_another_type": hostile(F32, ["0"], "cpu", 4, arguments=(0, (4,), (1,), False, {})),
    "storage_type_unknown": hostile(dict, "0", "cpu", 4, arguments=(0, (4,), (1,), False, {})),
    "shape_beyond_the_storage": hostile(F32, "0", "cpu", 4, arguments=(0, (5,), (1,), False, {})),
    "offset_beyond_the_storage": hostile(F32, "0", "cpu", 4, arguments=(4, (1,), (1,), False, {})),
    "negative_offset": hostile(F32, "0", "cpu", 4, arguments=(-1, (1,), (1,), False, {})),
    "negative_stride": hostile(F32, "0", "cpu", 4, arguments=(3, (4,), (-1,), False, {})),
    "negative_shape": hostile(F32, "0", "cpu", 4, arguments=(0, (-4,), (1,), False, {})),
    "stride_that_overflows": hostile(F32, "0", "cpu", 4, arguments=(0, (2, 2), (2**62, 2**62), False, {})),
    "shape_that_overflows": hostile(F32, "0", "cpu", 4, arguments=(0, (2**62, 4), (0, 2**62), False, {})),
    "shape_and_strides_of_other_lengths": hostile(F32, "0", "cpu", 4, arguments=(0, (4,), (), False, {})),
    "shape_of_text": hostile(F32, "0", "cpu", 4, arguments=(0, ("4",), (1,), False, {})),
    "shape_of_booleans": hostile(F32, "0", "cpu", 4, arguments=(0, (True,), (1,), False, {})),
    "many_dimensions": hostile(F32, "0", "cpu", 4, arguments=(0, (1,) * 100, (1,) * 100, False, {})),
    "missing_arguments": hostile(F32, "0", "cpu", 4, arguments=(0,)),
}


@pytest.mark.parametrize("name", LIES)
def test_tensors_that_cannot_be(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(LIES[name])
    assert refused(path).id == "checkpoint-tensor"


def test_an_enormous_expanded_view_costs_nothing(tmp_path: Path) -> None:
    """2⁵⁰ elements that are one number: kept as a view, not written out."""
    path = tmp_path / "x.pt"
    path.write_bytes(hostile(F32, "0", "cpu", 4, arguments=(0, (2**30, 2**20), (0, 0), False, {})))
    done = convert(path, tmp_path / "out")
    assert done.bytes < 1000


def test_a_view_over_itself_is_not_read_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3⁸ windows of nearly the whole storage for eight thousand numbers."""
    monkeypatch.setattr("bringup.checkpoints.strided._WINDOW", 2**12)
    shape = (3,) * 8 + (10,)
    strides = (*(1100 + i for i in range(8)), 100)
    count = sum((size - 1) * step for size, step in zip(shape, strides, strict=True)) + 1
    data = bytes(4 * count)
    path = tmp_path / "x.pt"
    path.write_bytes(hostile(F32, "0", "cpu", count, arguments=(0, shape, strides, False, {}), data=data))
    error = refused(path)
    assert error.id == "checkpoint-limit" and error.parameters["limit"] == "rereading"


def test_a_legacy_stream_that_lies_about_its_storages(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.arange(4.0)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for lie in (2**62, 3, -1):
        path.write_bytes(data[:-24] + struct.pack("<q", lie) + data[-16:])
        assert refused(path).id in ("checkpoint-tensor", "checkpoint-truncated")


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_every_truncation_is_named(container: str, tmp_path: Path, save: Callable[..., Path]) -> None:
    whole = save({"w": torch.arange(40.0), "n": [1, 2.5, "x"]}, container).read_bytes()
    path = tmp_path / "cut.pt"
    for size in range(1, len(whole) - 1, 7):
        path.write_bytes(whole[:size])
        assert refused(path).id in (
            "checkpoint-truncated",
            "checkpoint-unknown-format",
            "checkpoint-ambiguous",
            "checkpoint-malformed",
        ), size
    path.write_bytes(whole[: len(whole) // 2])
    assert refused(path).id == "checkpoint-truncated"


def tar_member(name: bytes, data: bytes, kind: bytes = b"0", off: int = 0, **fields: bytes) -> bytes:
    """A header and its body. `off`: how far from the truth the checksum is."""
    header = bytearray(512)
    header[: len(name)] = name
    header[124:136] = fields.get("size", b"%011o\0" % len(data))
    header[156:157] = kind
    header[345 : 345 + len(fields.get("prefix", b""))] = fields.get("prefix", b"")
    header[257:263] = b"ustar\0"
    header[148:156] = b" " * 8
    total = sum(header) - (256 * sum(byte > 127 for byte in header) if fields.get("signed") else 0)
    header[148:156] = b"%06o\0 " % (total + off)
    return bytes(header) + data + bytes(-len(data) % 512)


TAR_HEAD = tar_member(b"storages", pickle.dumps(0, 2) + pickle.dumps([], 2)) + tar_member(
    b"tensors", pickle.dumps(0, 2)
)
GOOD_TAR = TAR_HEAD + tar_member(b"pickle", GOOD)
RENAME = b"15 path=pickle\n"
HIDDEN_RENAME = b"12 uname=a15 path=pickle\n"
TARS: dict[str, tuple[str, bytes]] = {
    "good": ("tensors-and-containers", GOOD_TAR + bytes(1024)),
    "times_in_an_extended_header": (
        "tensors-and-containers",
        tar_member(b"PaxHeader", b"20 mtime=1480000000.5\n", b"x") + GOOD_TAR,
    ),
    "evil": ("unneeded-calls", TAR_HEAD + tar_member(b"pickle", EVIL)),
    "pickle_with_the_magic_of_a_tar": ("unneeded-calls", tar_member(EVIL, b"", off=1) + GOOD_TAR),
    "pickle_with_the_checksum_of_a_tar": ("checkpoint-ambiguous", tar_member(EVIL, b"") + GOOD_TAR),
    "pickle_with_a_signed_checksum": ("checkpoint-ambiguous", tar_member(EVIL, b"", signed=b"1") + GOOD_TAR),
    "renamed_by_an_extended_header": (
        "checkpoint-ambiguous",
        GOOD_TAR + tar_member(b"PaxHeader", RENAME, b"x") + tar_member(b"foo", EVIL),
    ),
    "renamed_inside_a_value": (
        "checkpoint-ambiguous",
        GOOD_TAR + tar_member(b"PaxHeader", HIDDEN_RENAME, b"x") + tar_member(b"foo", EVIL),
    ),
    "renamed_for_all": ("checkpoint-ambiguous", tar_member(b"PaxHeader", RENAME, b"g") + GOOD_TAR),
    "long_name": (
        "checkpoint-ambiguous",
        GOOD_TAR + tar_member(b"L", b"pickle\0", b"L") + tar_member(b"f", EVIL),
    ),
    "a_link": ("checkpoint-ambiguous", GOOD_TAR + tar_member(b"pickle", b"", b"2")),
    "twice": ("checkpoint-ambiguous", GOOD_TAR + tar_member(b"pickle", EVIL)),
    "a_prefix": ("checkpoint-ambiguous", GOOD_TAR + tar_member(b"pickle", EVIL, prefix=b"a")),
    "a_damaged_header": ("checkpoint-malformed", GOOD_TAR + tar_member(b"other", b"", off=1)),
    "size_that_is_no_number": (
        "checkpoint-malformed",
        GOOD_TAR + tar_member(b"x", b"", size=b"0x000000000\0"),
    ),
    "negative_size": ("checkpoint-malformed", GOOD_TAR + tar_member(b"x", b"", size=b"\xff" * 12)),
    "size_beyond_the_end": ("checkpoint-truncated", GOOD_TAR + tar_member(b"x", b"", size=b"77777777777\0")),
}


@pytest.mark.parametrize("name", TARS)
def test_tar_archives_are_read_as_python_reads_them(name: str, tmp_path: Path) -> None:
    """`torch.load` asks `tarfile` before it reads a pickle."""
    wanted, data = TARS[name]
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    try:
        with open_checkpoint(path) as checkpoint:
            found = checkpoint.verdict
    except BringupError as error:
        found = error.id
    assert found == wanted
