"""The triangles of each of the 256 ways in which a cube's corners can lie below or above a threshold.

Lorensen and Cline's table (1987), derived here instead of listed: on each face of the cube the contour is
drawn by marching squares, the contours are linked into closed polygons, the polygons cut into triangles.
Where a face is ambiguous (two opposite corners below, two above), the corners below are cut off one by one,
as torchmcubes does. That choice looks at the face's four corners alone, so two neighbouring cubes always
agree on it: the surface has no holes.

Corner c has coordinates (c & 1, c >> 1 & 1, c >> 2) = (x, y, z). Edge `4 * axis + rank` runs along `axis`;
rank counts the four corners that it may start from, in ascending order. Bit c of a case is set where corner c
is below.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import torch

AXES = (0, 1, 2)
#: The corner that each of the 12 edges starts from; it ends at that corner | 1 << axis.
EDGE_START = tuple(c for axis in AXES for c in range(8) if not c >> axis & 1)
EDGE_AXIS = tuple(axis for axis in AXES for _ in range(4))
#: The most triangles that one cube can hold.
MOST_TRIANGLES = 5

Triangle = tuple[int, int, int]


def _edge_between(a: int, b: int) -> int:
    axis = (a ^ b).bit_length() - 1
    starts = [c for c in range(8) if not c >> axis & 1]
    return 4 * axis + starts.index(min(a, b))


def _faces() -> list[tuple[int, int, int, int]]:
    """Return the corners of the six faces, each counterclockwise seen from outside."""
    faces = []
    for axis, side in product(AXES, (0, 1)):
        u, v = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        base = side << axis
        ring = (base, base | u, base | u | v, base | v)
        faces.append(ring if side else ring[::-1])
    return faces


FACES = _faces()


def _face_edges(face: tuple[int, int, int, int]) -> set[int]:
    return {_edge_between(face[i], face[(i + 1) % 4]) for i in range(4)}


def _share_a_face(first: int, second: int) -> bool:
    return any({first, second} <= _face_edges(face) for face in FACES)


def _contours(case: int) -> dict[int, int]:
    """Return the directed segments on all faces, edge → next: each crossed edge starts one and ends one."""
    following = {}
    for face in FACES:
        below = [bool(case >> corner & 1) for corner in face]
        for i in range(4):
            if below[i] and not below[i - 1]:  # a run of corners below starts here; find where it ends
                last = next(j for j in range(i, i + 4) if not below[(j + 1) % 4])
                entered = _edge_between(face[i - 1], face[i])
                left = _edge_between(face[last % 4], face[(last + 1) % 4])
                following[entered] = left
    return following


def _polygons(case: int) -> list[tuple[int, ...]]:
    following = _contours(case)
    polygons = []
    while following:
        start = min(following)
        polygon = [start]
        while (edge := following.pop(polygon[-1])) != start:
            polygon.append(edge)
        polygons.append(tuple(polygon))
    return polygons


@cache
def _cut(polygon: tuple[int, ...]) -> tuple[int, tuple[Triangle, ...]]:
    """Return the triangulation with the fewest cuts inside a face of the cube, and how many it has.

    Such a cut may meet the neighbouring cube's own along the same line, and four triangles would share it.
    """
    if len(polygon) < 3:
        return 0, ()
    best: tuple[int, tuple[Triangle, ...]] | None = None
    for k in range(1, len(polygon) - 1):
        cost, triangles = 0, [(polygon[0], polygon[k], polygon[-1])]
        for part in (polygon[: k + 1], polygon[k:]):
            if len(part) > 2:
                part_cost, part_triangles = _cut(part)
                cost += part_cost + _share_a_face(part[0], part[-1])
                triangles.extend(part_triangles)
        if best is None or cost < best[0]:
            best = cost, tuple(triangles)
    assert best is not None
    return best


@cache
def triangles_of(case: int) -> tuple[Triangle, ...]:
    """Return the triangles of a case as triples of edges; normals point to the corners above."""
    return tuple(triangle for polygon in _polygons(case) for triangle in _cut(polygon)[1])


@cache
def triangle_counts() -> torch.Tensor:
    """Return (256,) uint8: how many triangles each case has."""
    return torch.tensor([len(triangles_of(case)) for case in range(256)], dtype=torch.uint8, device="cpu")


@cache
def triangle_edges() -> torch.Tensor:
    """Return (256, 16) int8: the edges of each case's triangles, three by three, then -1."""
    rows = []
    for case in range(256):
        edges = [edge for triangle in triangles_of(case) for edge in triangle]
        rows.append(edges + [-1] * (16 - len(edges)))
    return torch.tensor(rows, dtype=torch.int8, device="cpu")
