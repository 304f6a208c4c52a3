"""Elements of a strided view in row-major order, without NumPy."""

from __future__ import annotations

import array
import itertools
import typing
from collections.abc import Iterator

from bringup.checkpoints import limits
from bringup.checkpoints.source import FileSlice, Literal
from bringup.checkpoints.tensors import Tensor, row_major

_FORMS: dict[int, typing.Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
_WINDOW = 2**25
"""Bytes that are read at once."""

Dimension = tuple[int, int, int]
"""Size, step in the source, step in the result; in units."""


def contiguous_chunks(data: FileSlice | Literal, swap: int) -> Iterator[memoryview]:
    """Bytes as they stand; `swap` > 1 turns each group of so many bytes round."""
    for piece in data.chunks():
        yield piece if swap == 1 else swapped(piece, swap)


def swapped(data: memoryview | bytearray, unit: int) -> memoryview:
    """A copy in the other byte order."""
    values = array.array(_FORMS[unit], bytes(data))
    values.byteswap()
    return memoryview(values).cast("B")


def gather(tensor: Tensor, data: FileSlice | Literal) -> bytearray:
    """The elements of `tensor`, a view that begins at the first byte of `data`.

    Memory: the result and a window of 32 MiB.

    Raises:
        BringupError: `checkpoint-limit` for a view that overlaps itself so that it is read over and over.
    """
    size = tensor.element.size
    unit = min(size, 8)
    scale = size // unit
    steps = zip(tensor.shape, tensor.strides, row_major(tensor.shape), strict=True)
    dimensions = [(count, step * scale, out * scale) for count, step, out in steps if count != 1]
    if scale > 1:
        dimensions.append((scale, 1, 1))
    result = bytearray(tensor.numel * size)
    target = memoryview(result).cast(_FORMS[unit])
    merged = _merged(sorted(dimensions, key=lambda row: -row[1]))
    _copy(_Windows(data, unit, limits.MAX_REREADING * data.size + _WINDOW), merged, 0, target, 0)
    return result


class _Windows:
    """Reads stretches of the source. A view over itself may ask for the same bytes without end."""

    def __init__(self, data: FileSlice | Literal, unit: int, left: int) -> None:
        self.unit = unit
        self._data = data
        self._left = left

    def read(self, start: int, count: int) -> bytes:
        self._left -= count * self.unit
        if self._left < 0:
            raise limits.exceeded("rereading", limits.MAX_REREADING)
        return self._data.part(start * self.unit, count * self.unit).read()


def _merged(dimensions: list[Dimension]) -> list[Dimension]:
    """Neighbouring dimensions that are one in both source and result, as one."""
    merged: list[Dimension] = []
    for size, step, out in dimensions:
        if merged and merged[-1][1] == step * size and merged[-1][2] == out * size:
            merged[-1] = (merged[-1][0] * size, step, out)
        else:
            merged.append((size, step, out))
    return merged


def _span(dimensions: list[Dimension]) -> int:
    return sum((size - 1) * step for size, step, _ in dimensions) + 1


def _copy(
    source: _Windows,
    dimensions: list[Dimension],
    start: int,
    target: memoryview,
    out: int,
) -> None:
    """Read the source in windows, along the dimension whose steps are widest."""
    span, unit = _span(dimensions), source.unit
    if span * unit <= _WINDOW or not dimensions:
        window = memoryview(source.read(start, span)).cast(_FORMS[target.itemsize])
        _scatter(window, dimensions, target, out)
        return
    (size, step, out_step), inner = dimensions[0], dimensions[1:]
    block = max(1, (_WINDOW // unit - _span(inner)) // max(step, 1) + 1)
    for first in range(0, size, block):
        count = min(block, size - first)
        rows = [(count, step, out_step), *inner] if count > 1 else inner
        _copy(source, rows, start + first * step, target, out + first * out_step)


def _scatter(window: memoryview, dimensions: list[Dimension], target: memoryview, out: int) -> None:
    """Copy the longest dimension by slices, the others one by one."""
    if not dimensions:
        target[out] = window[0]
        return
    longest = max(range(len(dimensions)), key=lambda index: dimensions[index][0])
    size, step, out_step = dimensions[longest]
    others = dimensions[:longest] + dimensions[longest + 1 :]
    for indices in itertools.product(*(range(row[0]) for row in others)):
        begin = sum(index * row[1] for index, row in zip(indices, others, strict=True))
        place = out + sum(index * row[2] for index, row in zip(indices, others, strict=True))
        if step == 0:
            source = memoryview(bytes(window[begin : begin + 1]) * size).cast(_FORMS[target.itemsize])
        else:
            source = window[begin : begin + (size - 1) * step + 1 : step]
        target[place : place + (size - 1) * out_step + 1 : out_step] = source
