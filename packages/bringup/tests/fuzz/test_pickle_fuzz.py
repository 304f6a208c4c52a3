"""Replays the fuzzer's corpus, and mutates it a little: nothing but `BringupError` comes out."""

from __future__ import annotations

import importlib.util
import os
import random
import time
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def target() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pickle_target", HERE / "pickle_target.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus() -> list[bytes]:
    with zipfile.ZipFile(HERE / "pickle_corpus.zip") as archive:
        return [archive.read(name) for name in sorted(archive.namelist())]


def test_the_corpus_reaches_every_outcome(target: ModuleType, corpus: list[bytes], tmp_path: Path) -> None:
    outcomes = Counter(target.read_everything(data, tmp_path) for data in corpus)
    assert {"tensors-and-containers", "unknown-classes", "unneeded-calls"} <= set(outcomes)
    assert {
        "checkpoint-malformed",
        "checkpoint-truncated",
        "checkpoint-tensor",
        "checkpoint-ambiguous",
    } <= set(outcomes)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, left out, repeated or made extreme."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(changed) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            changed[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del changed[place : place + chance.randint(1, 8)]
        elif kind == 2:
            changed[place:place] = changed[place : place + chance.randint(1, 16)]
        else:
            changed[place : place + 4] = chance.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"]
            )
    return bytes(changed)


def _mutate_for(seconds: float, target: ModuleType, corpus: list[bytes], folder: Path, seed: int) -> int:
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        data = mutated(chance.choice(corpus), chance)
        try:
            target.read_everything(data, folder)
        except Exception:
            (folder / "failing_input").write_bytes(data)
            raise
        count += 1
    return count


def test_mutations(target: ModuleType, corpus: list[bytes], tmp_path: Path) -> None:
    assert _mutate_for(2, target, corpus, tmp_path, 20260101) > 50


@pytest.mark.slow
def test_many_mutations(target: ModuleType, corpus: list[bytes], tmp_path: Path) -> None:
    """Another seed each time is for a person who looks for faults: BRINGUP_FUZZ_SEED=$RANDOM."""
    seed = int(os.environ.get("BRINGUP_FUZZ_SEED", "20261121"))
    assert _mutate_for(45, target, corpus, tmp_path, seed) > 500
