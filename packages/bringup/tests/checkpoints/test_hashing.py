"""Every hash is that of the bytes, however far the hashing is behind the reading."""

from __future__ import annotations

import hashlib
import json
import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bringup.checkpoints import convert
from bringup.checkpoints.hashing import Hasher, SourceDigest
from bringup.checkpoints.source import CHUNK, Buffers, FileSlice, SourceFile


class _Slow(Hasher):
    """A machine on which the other thread hardly gets its turn."""

    def update(self, digest, piece):  # type: ignore[no-untyped-def]
        self._pool.submit(time.sleep, 0.01)
        return super().update(digest, piece)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("hashing", "safetensors"):
        monkeypatch.setattr(f"bringup.checkpoints.{module}.Hasher", _Slow)


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.usefixtures("slow")
def test_a_converted_file(container: str, tmp_path: Path) -> None:
    tensors = {f"w{index}": torch.randn(1 + 99_991 * index) for index in range(12)}
    tensors["turned"] = torch.randn(700, 900).t()
    path = tmp_path / "x.pt"
    torch.save(tensors, path, _use_new_zipfile_serialization=container == "zip")
    done = convert(path, tmp_path / "out")
    document = json.loads(done.description.read_text(encoding="utf-8"))
    assert document["source"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    written = load_file(done.files[0])
    for name, tensor in tensors.items():
        assert torch.equal(written[name], tensor)
        data = tensor.contiguous().numpy().tobytes()
        assert document["stored"][name]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.usefixtures("slow")
def test_pieces_with_gaps_between_them_and_out_of_order(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(random.Random(0).randbytes(20 * CHUNK + 7))
    with SourceFile(path) as file, SourceDigest(file) as digest:
        for start in (3, 5 * CHUNK, 2 * CHUNK, 9 * CHUNK, 0, 15 * CHUNK):
            for _ in FileSlice(file, start, 2 * CHUNK + 1).chunks():
                pass
        assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_held_piece_stays_as_it_is() -> None:
    buffers, digest = Buffers(), hashlib.sha256()
    with _Slow() as hasher:
        for number in range(40):
            piece = buffers.take(1000)
            piece[:] = bytes([number]) * 1000
            buffers.hold(piece, hasher.update(digest, piece))
        hasher.finish()
    assert digest.hexdigest() == hashlib.sha256(b"".join(bytes([n]) * 1000 for n in range(40))).hexdigest()
