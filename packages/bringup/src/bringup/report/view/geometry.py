"""What is shown: vertices with colours, and triangles or points."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Point = tuple[float, float, float]

_SAMPLE = 20_000


@dataclass(frozen=True)
class Geometry:
    """A mesh or a cloud of points. n vertices, m triangles.

    Attributes:
        positions: float32, 3·n.
        colours: uint8, 3·n, sRGB; empty where the file has none.
        triangles: uint32, 3·m, indices of vertices; empty: the vertices are points.
        radii: float32, n, in units of the positions; empty: points have no size of their own.
        up: the axis that points up by the file's convention: "x", "y", "z", "-x", "-y" or "-z".
        left_out: how many points the file has beyond those here.
    """

    positions: array[float]
    colours: bytes = b""
    triangles: array[int] = field(default_factory=lambda: array("I"))
    radii: array[float] = field(default_factory=lambda: array("f"))
    up: str = "z"
    left_out: int = 0

    @property
    def count(self) -> int:
        """Number of vertices."""
        return len(self.positions) // 3

    def frame(self) -> tuple[Point, float]:
        """Centre and radius of what a picture should hold; outliers of a cloud are left outside."""
        stride = max(1, self.count // _SAMPLE)
        columns = [sorted(filter(math.isfinite, self.positions[axis :: 3 * stride])) for axis in range(3)]
        if not all(columns):
            return (0.0, 0.0, 0.0), 1.0
        share = 0.0 if self.triangles else 0.02
        ends = [(row[int(share * len(row))], row[-1 - int(share * len(row))]) for row in columns]
        x, y, z = ((low + high) / 2 for low, high in ends)
        radius = 0.5 * sum((high - low) ** 2 for low, high in ends) ** 0.5
        return (x, y, z), radius or 1.0


def fan(corners: Sequence[int]) -> Iterator[int]:
    """The triangles of a convex polygon, corner after corner."""
    for second, third in pairwise(corners[1:]):
        yield from (corners[0], second, third)


def uint32(values: list[int] | bytes = b"") -> array[int]:
    """An array of 32-bit unsigned integers."""
    made = array("I" if array("I").itemsize == 4 else "L")
    if isinstance(values, bytes):
        made.frombytes(values)
    else:
        made.extend(values)
    return made
