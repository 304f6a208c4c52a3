"""A file that is no checkpoint is named for what it is; limits hold; nothing half-written stays."""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from bringup.checkpoints import convert, convert_all, limits, open_checkpoint
from bringup.checkpoints.conversion import output_names
from bringup.errors import BringupError
from bringup.report.messages import choose_language, say_error

from . import attacks


def _safetensors(path: Path) -> None:
    save_file({"w": torch.ones(2)}, path)


def _hdf5(path: Path) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(512))


def _onnx(path: Path) -> None:
    # ir_version 8, producer_name "pytorch", a graph: the beginning that torch.onnx writes.
    path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:\x04\x12\x02ab")


def _npz(path: Path) -> None:
    with path.open("wb") as stream:
        numpy.savez(stream, a=numpy.zeros(3))


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
KINDS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "lfs": ("checkpoint-lfs-pointer", lambda p: p.write_text(LFS)),
    "html": ("checkpoint-html", lambda p: p.write_text("<!DOCTYPE html>\n<html><body>404</body></html>")),
    "html_after_a_mark": ("checkpoint-html", lambda p: p.write_bytes(b"\xef\xbb\xbf\r\n<html>")),
    "xml_error": (
        "checkpoint-html",
        lambda p: p.write_text('<?xml version="1.0"?><Error>AccessDenied</Error>'),
    ),
    "json": ("checkpoint-text", lambda p: p.write_text('{"error": "Invalid username or password."}')),
    "words": ("checkpoint-text", lambda p: p.write_text("Not Found: there is no such file\n")),
    "more_words": ("checkpoint-text", lambda p: p.write_text("Invalid credentials in Authorization header")),
    "empty": ("checkpoint-empty", lambda p: p.write_bytes(b"")),
    "folder": ("checkpoint-directory", lambda p: p.mkdir()),
    "missing": ("checkpoint-missing", lambda p: None),
    "zeros": ("checkpoint-zeros", lambda p: p.write_bytes(bytes(5000))),
    "safetensors": ("checkpoint-safetensors", _safetensors),
    "gguf": ("checkpoint-gguf", lambda p: p.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))),
    "onnx": ("checkpoint-onnx", _onnx),
    "hdf5": ("checkpoint-hdf5", _hdf5),
    "npy": ("checkpoint-npy", lambda p: numpy.save(p.open("wb"), numpy.zeros(3))),
    "npz": ("checkpoint-other-archive", _npz),
    "gzip": ("checkpoint-compressed", lambda p: p.write_bytes(gzip.compress(b"x"))),
    "7z": ("checkpoint-compressed", lambda p: p.write_bytes(b"7z\xbc\xaf'\x1c\0\4" + bytes(50))),
    "openssl": ("checkpoint-encrypted", lambda p: p.write_bytes(b"Salted__" + bytes(range(64)))),
    "gpg": ("checkpoint-encrypted", lambda p: p.write_text("-----BEGIN PGP MESSAGE-----\n\nhQEMA\n")),
    "elf": ("checkpoint-binary", lambda p: p.write_bytes(b"\x7fELF" + bytes(60))),
    "noise": ("checkpoint-unknown-format", lambda p: p.write_bytes(b"\xde\xad\xbe\xef" * 100)),
}


@pytest.mark.parametrize("name", KINDS)
def test_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    id, make = KINDS[name]
    path = tmp_path / "model.pt"
    make(path)
    with pytest.raises(BringupError) as caught:
        convert(path, tmp_path / "out")
    assert caught.value.id == id and not (tmp_path / "out").exists()
    for language in ("en", "zh"):
        choose_language(language)
        assert str(path) in say_error(caught.value)
    choose_language(None)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(BringupError, match="checkpoint-unreadable"), open_checkpoint(path):
        pass


def test_a_failure_leaves_the_earlier_result(tmp_path: Path, save: Callable[..., Path]) -> None:
    path = save({"w": torch.ones(3)})
    done = convert(path, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BringupError):
        convert(path, tmp_path / "out")
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert done.files[0].exists()


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, save: Callable[..., Path]) -> None:
    path = save({f"w{index}": torch.ones(1000) for index in range(5)})

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(path, tmp_path / "out", advance=stop)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("folder", ["model.pt", "model.pt/inside", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written(folder: str, tmp_path: Path, save: Callable[..., Path]) -> None:
    with pytest.raises(BringupError) as caught:
        convert(save({"w": torch.ones(3)}), tmp_path / folder)
    assert caught.value.id == "checkpoint-unwritable"
    assert str(caught.value.parameters["folder"]) == str(tmp_path / folder)


def test_a_name_that_is_too_long(tmp_path: Path, save: Callable[..., Path]) -> None:
    with pytest.raises(BringupError, match="checkpoint-unwritable"):
        convert(save({"w": torch.ones(3)}, name="x" * 250 + ".pt"), tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


def test_a_batch_goes_on_after_a_bad_file(tmp_path: Path, save: Callable[..., Path]) -> None:
    good = save({"w": torch.ones(3)}, name="good.pt")
    bad = tmp_path / "bad.pt"
    bad.write_bytes(good.read_bytes()[:300])
    results = convert_all([bad, good], tmp_path / "out")
    assert isinstance(results[0], BringupError) and not isinstance(results[1], BringupError)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["good.json", "good.safetensors"]


@pytest.mark.parametrize(
    "paths, names",
    [
        (["a/x.pt", "b/y.pt"], ["x", "y"]),
        (["a/x.pt", "a/x.pth"], ["x.pt", "x.pth"]),
        (["fold_0/model.pt", "fold_1/model.pt"], ["fold_0-model", "fold_1-model"]),
        (["a/Model.pt", "a/model.pth"], ["Model.pt", "model.pth"]),
        (["epoch=3-step=1.5.ckpt"], ["epoch=3-step=1.5"]),
    ],
)
def test_names_of_a_batch(paths: list[str], names: list[str]) -> None:
    assert output_names([Path(path) for path in paths]) == names


def test_the_same_file_twice_is_refused() -> None:
    with pytest.raises(BringupError, match="checkpoint-named-twice"):
        output_names([Path("a.pt"), Path("a.pt")])


LIMITS: dict[str, tuple[str, bytes]] = {
    "opcodes": ("opcodes", b"\x80\x02" + b"N0" * (limits.MAX_OPCODES // 128 + 5000) + b"."),
    "memory_of_objects": ("memory", b"\x80\x02(" + b"]" * (limits.MAX_HELD_BYTES // 4096 + 10) + b"l."),
    "depth": ("depth", b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_the_machine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a sixty-fourth of their size; `test_bombs` has them as they are."""
    monkeypatch.setattr(limits, "MAX_OPCODES", limits.MAX_OPCODES // 64)
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", limits.MAX_HELD_BYTES // 64)
    limit, data = LIMITS[name]
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(BringupError) as caught, open_checkpoint(path) as checkpoint:
        assert checkpoint.tree
    assert caught.value.parameters["limit"] == limit


def test_the_limit_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.2)
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02" + b"N0" * 3_000_000 + b".")
    with pytest.raises(BringupError, match="seconds"), open_checkpoint(path):
        pass


def test_colliding_keys_stop_at_the_limit_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers of equal hash make a dict quadratic."""
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.5)
    modulus = 2**61 - 1
    keys = b"".join(
        b"\x8a" + bytes([len(data)]) + data + b"N"
        for data in ((i * modulus).to_bytes(16, "little") for i in range(60_000))
    )
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02}(" + keys + b"u.")
    started = time.monotonic()
    with pytest.raises(BringupError, match="seconds"), open_checkpoint(path):
        pass
    assert time.monotonic() - started < 10


def test_doubling_structures_are_described_in_linear_size(tmp_path: Path) -> None:
    """Forty lists, each holding the one before twice, would be a tree of 2⁴⁰ leaves."""
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02]" + b"q\x000](h\x00h\x00e" * 40 + b".")
    with open_checkpoint(path) as checkpoint:
        assert len(str(checkpoint.tree)) < 10_000


def test_modules_that_double_stop_at_the_limit_of_tensors(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_TENSORS", 1000)
    module = torch.nn.Linear(1, 1)
    for _ in range(15):
        module = torch.nn.Sequential(module, module)
    with open_checkpoint(save(module)) as checkpoint, pytest.raises(BringupError, match="tensors"):
        _ = checkpoint.tensors


def test_all_attacks_on_the_command_line(tmp_path: Path) -> None:
    """Refused with one paragraph each; no traceback, no file."""
    from bringup.cli.main import run

    paths = attacks.write_all(tmp_path / "evil")
    assert run(["convert", *map(str, paths), "-o", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
