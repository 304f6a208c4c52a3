"""Small files that would cost much time or memory. Each is a known way to do it; each stops at a stated limit."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bringup.checkpoints import limits, open_checkpoint
from bringup.errors import BringupError

from .attacks import called, named, text


def put(number: int) -> bytes:
    """LONG_BINPUT."""
    return b"r" + struct.pack("<I", number)


def get(number: int) -> bytes:
    """LONG_BINGET: a reference to what is there already."""
    return b"j" + struct.pack("<I", number)


def long_text(size: int, first: bytes = b"") -> bytes:
    """BINUNICODE."""
    return b"X" + struct.pack("<I", size) + first.ljust(size, b"a")


def kept(value: bytes, number: int) -> bytes:
    """Put into the memo and taken off the stack."""
    return value + put(number) + b"0"


def bombs(scale: int) -> dict[str, tuple[str, bytes]]:
    """Limit and pickle by name; `scale` 64 is about what the real limits stop, 1 a sixty-fourth of it."""
    doubling = b"N" + b"2\x86" * 60
    ends = [1 + i * (2**61 - 1) for i in range(1000 * scale)]
    colliding = b"".join(b"\x8a\x10" + value.to_bytes(16, "little") for value in ends)
    deep = b"".join(b"}" + long_text(100, b"%02d" % level) for level in range(90))
    maker, many = kept(named("a", "B"), 1), 8000 * scale
    meta = called(
        named("torch._utils", "_rebuild_meta_tensor_no_storage"),
        named("torch", "float32"), b"K\x01\x85", b"K\x01\x85", b"\x89",
    )  # fmt: skip
    hooks = text("_parameters") + b"}" + text("_modules") + b"}" + text("_non_persistent_buffers_set")
    subclass = kept(named("torch._tensor", "_rebuild_from_type_v2"), 1)
    return {
        "a_list_copied": ("memory", kept(b"](" + b"N" * many + b"e", 1) + kept(named("builtins", "list"), 2)
                          + b"(" + (get(2) + get(1) + b"\x85R") * 500 + b"l."),
        "a_dict_copied": ("memory", kept(b"}(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(999))
                          + b"u", 1) + kept(named("builtins", "dict"), 2)
                          + b"(" + (get(2) + get(1) + b"\x85R") * 300 * scale + b"l."),
        "a_text_encoded": ("memory", kept(long_text(20_000 * scale), 1) + kept(named("_codecs", "encode"), 2)
                           + kept(text("latin1"), 3) + b"(" + (get(2) + get(1) + get(3) + b"\x86R") * 500 + b"l."),
        "a_text_referred_to": ("memory", kept(long_text(10_000 * scale), 1) + b"(" + get(1) * 2000 + b"l."),
        "bytes_referred_to": ("memory", kept(b"B" + struct.pack("<I", 4000) + bytes(4000), 1)
                              + b"(" + get(1) * 2000 * scale + b"l."),
        "a_key_referred_to": ("memory", kept(long_text(10_000 * scale), 1) + b"(" + (b"}" + get(1) + b"Ns") * 2000
                              + b"l."),
        "a_class_referred_to": ("memory", kept(named("a", "B" + "b" * 4000), 1)
                                + b"(" + (get(1) + b")\x81") * 700 * scale + b"l."),
        "long_paths": ("memory", deep + b"(" + b"N\x85" * 3000 * scale + b"l" + b"s" * 90 + b"."),
        "a_long_path_referred_to": ("memory", deep + b"(" + b"N\x85" + put(1) + get(1) * 3000 * scale + b"l"
                                    + b"s" * 90 + b"."),
        "long_names_of_tensors": ("memory", deep + b"(" + meta + put(1) + get(1) * 1000 * scale + b"l" + b"s" * 90
                                  + b"."),
        "objects": ("memory", maker + b"(" + (get(1) + b")\x81") * 7000 * scale + b"l."),
        "dicts": ("memory", b"(" + b"}" * 40_000 * scale + b"l."),
        "marks": ("memory", b"(" * 40_000 * scale + b"."),
        "a_set_of_equal_hashes": ("equal-hashes", called(named("builtins", "set"), b"(" + colliding + b"l") + b"."),
        "a_frozenset_of_equal_hashes": ("equal-hashes", called(named("builtins", "frozenset"), b"(" + colliding
                                        + b"l") + b"."),
        "a_dict_of_equal_hashes": ("equal-hashes", called(named("collections", "Counter"), b"("
                                   + colliding.replace(b"\x8a\x10", b"N\x86\x8a\x10")[2:] + b"N\x86l") + b"."),
        "a_chain_of_attributes": ("depth", maker + kept(named("builtins", "getattr"), 2) + get(2) * 800 * scale
                                  + get(1) + (text("x") + b"\x86R") * 800 * scale + b"."),
        "a_chain_of_objects": ("depth", maker + get(1) * 800 * scale + b"N" + b"\x85R" * 800 * scale + b"."),
        "subclasses_of_subclasses": ("depth", subclass + (b"(" + get(1) + get(1)) * 800 * scale + b")"
                                     + b"}t" * 800 * scale + put(3) + b"0" + get(1) + get(3) + b"R."),
        "frozensets_in_frozensets": ("key-leaves", b"\x80\x04" + b"(" * 1100 + b"N" + b"\x91" * 1100 + b"."),
        "tuples_in_a_set": ("depth", called(named("builtins", "set"), b")" + b"\x85" * 800 * scale) + b"."),
        "a_doubling_key_of_a_legacy_stream": (
            "checkpoint-tensor", b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
            + b"}.]" + doubling + b"a."),
        "a_doubling_name_of_an_attribute": (
            "unneeded-calls", called(named("builtins", "getattr"), named("a", "B"), doubling) + b"."),
        "a_doubling_list_of_buffers": (
            "unknown-classes", named("a", "B") + b")\x81}(" + hooks + b"]" + doubling + b"aub."),
        "a_doubling_object_as_a_name": (
            "unknown-classes", named("a", "B") + b")\x81}(" + text("_modules") + b"}" + text("_parameters") + b"}"
            + called(named("a", "B"), doubling) + b"Nsub."),
        "a_memo_of_equal_hashes": (
            "checkpoint-malformed", b"N" + b"".join(b"p%d\n" % value for value in ends) + b"."),
    }  # fmt: skip


def outcome(path: Path) -> str:
    """The verdict, the limit, or the id of another refusal."""
    try:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.layout is not None and checkpoint.tree is not ...
            return checkpoint.verdict
    except BringupError as error:
        return str(error.parameters.get("limit", error.id))


@pytest.mark.parametrize("name", bombs(0))
def test_bombs_stop_at_the_limit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", limits.MAX_HELD_BYTES // 64)
    wanted, data = bombs(1)[name]
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    started = time.process_time()
    assert outcome(path) == wanted
    assert time.process_time() - started < 5


_MEASURED = """
import sys
from pathlib import Path
from bringup.checkpoints import open_checkpoint
from bringup.errors import BringupError
try:
    with open_checkpoint(Path(sys.argv[1])) as checkpoint:
        checkpoint.layout, checkpoint.tree
except BringupError:
    pass
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "name", ["a_dict_copied", "objects", "dicts", "marks", "long_names_of_tensors", "long_paths"]
)
def test_memory_at_the_real_limits(name: str, tmp_path: Path) -> None:
    """What counts as 128 MiB is less than 1 GB of a process."""
    path = tmp_path / "x.pkl"
    path.write_bytes(bombs(64)[name][1])
    done = subprocess.run([sys.executable, "-c", _MEASURED, path], check=True, capture_output=True, text=True)
    assert int(done.stdout) * 1024 < 1e9
