"""PLY, ASCII and binary: meshes, point clouds, and the clouds of Gaussians that 3DGS training writes.

Sources: Turk, «The PLY Polygon File Format» (1994); Kerbl et al., 3D Gaussian Splatting (2023): `f_dc` are
the harmonics of degree 0 (colour = 0.5 + f_dc / (2·√π)), `opacity` before the sigmoid, `scale` logarithms.
"""

from __future__ import annotations

import math
import os
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from bringup.errors import BringupError
from bringup.report.view.geometry import Geometry, fan, uint32

_TYPES = {
    "char": "b", "int8": "b", "uchar": "B", "uint8": "B", "short": "h", "int16": "h", "ushort": "H",
    "uint16": "H", "int": "i", "int32": "i", "uint": "I", "uint32": "I", "float": "f", "float32": "f",
    "double": "d", "float64": "d",
}  # fmt: skip
_DEGREE_0 = 0.5 / math.sqrt(math.pi)
_FAINT = 0.05  # Gaussians below this opacity are not shown
_LONGEST_HEADER = 64 << 10
_MOST_CORNERS = 10_000


@dataclass
class _Element:
    """One table of the file. `lists`: name → (type of the count, type of the entries)."""

    name: str
    count: int
    columns: list[tuple[str, str]] = field(default_factory=list)
    lists: dict[str, tuple[str, str]] = field(default_factory=dict)


def _header(stream: BinaryIO) -> tuple[str, list[_Element]]:
    """(struct's byte order, "" for ASCII; elements)."""
    if stream.readline(16).strip() != b"ply":
        raise ValueError("it does not begin with «ply»")
    order, elements = None, []
    while True:
        line = stream.readline(4096)
        words = line.decode("ascii", "replace").split()
        if not line or stream.tell() > _LONGEST_HEADER:
            raise ValueError("its header does not end")
        if words[:1] == ["format"]:
            order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}[words[1]]
        elif words[:1] == ["element"]:
            elements.append(_Element(words[1], int(words[2])))
        elif words[:2] == ["property", "list"]:
            elements[-1].lists[words[4]] = (_TYPES[words[2]], _TYPES[words[3]])
            elements[-1].columns.append((words[4], "list"))
        elif words[:1] == ["property"]:
            elements[-1].columns.append((words[2], _TYPES[words[1]]))
        elif words == ["end_header"]:
            break
    if order is None:
        raise ValueError("its header names no format")
    return order, elements


Columns = dict[str, Sequence[float]]


def _columns(stream: BinaryIO, element: _Element, order: str) -> Columns:
    """The values of an element without lists, by name."""
    names = [name for name, _ in element.columns]
    if not order:
        rows = []
        for _ in range(element.count):
            rows.append([float(word) for word in stream.readline().split()])
            if len(rows[-1]) < len(names):
                raise ValueError(f"a row of {element.name} is too short")
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}
    codes = "".join(code for _, code in element.columns)
    record = struct.Struct(order + codes)
    if record.size * element.count > _rest(stream):
        raise ValueError(f"it ends within its {element.count} rows of {element.name}")
    data = stream.read(record.size * element.count)
    if set(codes) == {"f"}:
        values = array("f")
        values.frombytes(data)
        if (order == ">") != (sys.byteorder == "big"):
            values.byteswap()
        return {name: values[place :: len(names)] for place, name in enumerate(names)}
    rows_read: Iterable[tuple[float, ...]] = record.iter_unpack(data)
    return {name: list(column) for name, column in zip(names, zip(*rows_read, strict=True), strict=True)}


def _faces(stream: BinaryIO, element: _Element, order: str) -> Iterator[Sequence[int]]:
    """The corners of each face; other properties of faces are passed over."""
    for _ in range(element.count):
        corners: Sequence[int] = ()
        if not order:
            words = iter(stream.readline().split())
            for name, code in element.columns:
                if code == "list":
                    row = [int(next(words)) for _ in range(int(next(words)))]
                    corners = row if name.startswith("vertex_ind") else corners
                else:
                    next(words)
        else:
            for name, code in element.columns:
                if code == "list":
                    counts, entries = element.lists[name]
                    (length,) = _unpack(stream, order + counts)
                    if not 0 <= length <= _MOST_CORNERS:
                        raise ValueError(f"a face has {length} corners")
                    found = _unpack(stream, f"{order}{length}{entries}")
                    corners = found if name.startswith("vertex_ind") else corners
                else:
                    _unpack(stream, order + code)
        yield corners


def _rest(stream: BinaryIO) -> int:
    """Bytes from here to the end."""
    return os.fstat(stream.fileno()).st_size - stream.tell()


def _unpack(stream: BinaryIO, code: str) -> tuple[int, ...]:
    data = stream.read(struct.calcsize(code))
    return struct.unpack(code, data)


def _triangles(stream: BinaryIO, element: _Element, order: str, count: int) -> array[int]:
    triangles = uint32()
    for corners in _faces(stream, element, order):
        if any(not 0 <= corner < count for corner in corners):
            raise ValueError(f"a face names a vertex that is not there ({max(corners)} of {count})")
        triangles.extend(fan(corners))
    return triangles


def _interleave(columns: Sequence[Sequence[float]]) -> array[float]:
    positions = array("f", bytes(12 * len(columns[0])))
    for axis, column in enumerate(columns):
        positions[axis::3] = array("f", column)
    return positions


def _byte(value: float) -> int:
    return min(255, max(0, round(255 * value))) if value == value else 0


def _colours(columns: Columns) -> bytes:
    """Bytes or fractions under the usual names."""
    for names in (
        ("red", "green", "blue"),
        ("r", "g", "b"),
        ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ):
        if all(name in columns for name in names):
            rows = [columns[name] for name in names]
            made = bytearray(3 * len(rows[0]))
            for channel, row in enumerate(rows):
                fractions = any(isinstance(value, float) and value % 1 for value in row[:1000])
                made[channel::3] = (
                    bytes(map(_byte, row)) if fractions else bytes(min(255, max(0, int(v))) for v in row)
                )
            return bytes(made)
    return b""


def _gaussians(columns: Columns, limit: int) -> Geometry:
    """Visible Gaussians as points; beyond `limit`, every k-th."""
    opacity = columns["opacity"]
    faint = math.log(_FAINT / (1 - _FAINT))
    shown = [index for index, value in enumerate(opacity) if value > faint]
    shown = shown[:: -(-len(shown) // limit)] if len(shown) > limit else shown
    positions = _interleave([[columns[name][index] for index in shown] for name in "xyz"])
    colours = bytearray(3 * len(shown))
    for channel in range(3):
        row = columns[f"f_dc_{channel}"]
        colours[channel::3] = bytes(_byte(0.5 + _DEGREE_0 * row[index]) for index in shown)
    scales = [columns[f"scale_{axis}"] for axis in range(3)]
    # The middle one of the three axes: what a flat or long Gaussian looks like from most sides.
    radii = array("f", (math.exp(min(20.0, sorted(row[i] for row in scales)[1])) for i in shown))
    return Geometry(positions, bytes(colours), radii=radii, up="-y", left_out=len(opacity) - len(shown))


def _thinned(positions: array[float], colours: bytes, limit: int) -> Geometry:
    """A plain cloud, every k-th point beyond `limit`."""
    count = len(positions) // 3
    step = -(-count // limit)
    if step <= 1:
        return Geometry(positions, colours)
    kept = _interleave([positions[axis :: 3 * step] for axis in range(3)])
    chosen = bytearray(len(kept) if colours else 0)
    for channel in range(3 if colours else 0):
        chosen[channel::3] = colours[channel :: 3 * step]
    return Geometry(kept, bytes(chosen), left_out=count - len(kept) // 3)


def read_ply(path: Path, limit: int) -> Geometry:
    """Read a PLY file; of points and Gaussians, at most `limit` are kept.

    Raises:
        BringupError: `view-unreadable`.
    """
    columns: Columns = {}
    triangles = uint32()
    try:
        with path.open("rb") as stream:
            order, elements = _header(stream)
            for element in elements:
                if element.name == "vertex" and not element.lists:
                    columns = _columns(stream, element, order)
                elif element.name == "face":
                    triangles = _triangles(stream, element, order, len(columns.get("x", ())))
                    break
                else:
                    break  # what stands behind it is of no use for a picture
        if not all(name in columns for name in "xyz"):
            raise ValueError("it has no vertices with x, y and z")
    except (ValueError, KeyError, IndexError, struct.error, StopIteration, RuntimeError) as error:
        raise BringupError("view-unreadable", path=path, text=error) from error
    if "f_dc_0" in columns and "opacity" in columns and "scale_2" in columns:
        return _gaussians(columns, limit)
    positions, colours = _interleave([columns[name] for name in "xyz"]), _colours(columns)
    return Geometry(positions, colours, triangles) if triangles else _thinned(positions, colours, limit)
