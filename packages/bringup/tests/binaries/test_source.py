"""What a wrapped source gives is what the source gives, whatever is asked in whatever order."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from bringup.binaries.source import BytesSource, WindowedSource

DATA = random.Random(0).randbytes(300_000)
_READS = st.lists(st.tuples(st.integers(0, 310_000), st.integers(0, 90_000)), max_size=12)
_HOPS = st.lists(st.tuples(st.integers(-100, 40_000), st.integers(0, 200)), max_size=40)


@given(_READS)
def test_reads_anywhere(reads: list[tuple[int, int]]) -> None:
    windowed, plain = WindowedSource(BytesSource(DATA)), BytesSource(DATA)
    assert windowed.size == plain.size
    for offset, length in reads:
        assert windowed.read(offset, length) == plain.read(offset, length)


@given(_HOPS)
def test_hops(hops: list[tuple[int, int]]) -> None:
    windowed, plain = WindowedSource(BytesSource(DATA)), BytesSource(DATA)
    here = 0
    for step, length in hops:
        here += step
        assert windowed.read(here, length) == plain.read(here, length)
        here += length


class _Counting(BytesSource):
    reads = 0

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        return super().read(offset, length)


def test_near_headers_are_read_together() -> None:
    counting = _Counting(DATA)
    windowed = WindowedSource(counting)
    for offset in range(0, 300_000, 1000):
        windowed.read(offset, 64)
    assert counting.reads < 8
