"""A still picture without GPU, numpy or browser: triangles and points over a depth buffer."""

from __future__ import annotations

import math
from array import array

from bringup.report.view.geometry import Geometry, Point
from bringup.report.view.png import encode_png

AZIMUTH, ELEVATION, FIELD = math.radians(35), math.radians(20), math.radians(40)
DISTANCE = 1 / math.sin(FIELD / 2)  # in radii of what is shown: all of it is seen
_PLAIN = (176, 176, 182)
_PAPER = (250, 250, 250)
_LARGEST_POINT = 12.0
_MOST_DISCS = 50_000


def _cross(a: Point, b: Point) -> Point:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def upright(up: str) -> tuple[Point, Point, Point]:
    """Three axes of a frame whose last one is `up`, right-handed."""
    sign = -1.0 if up.startswith("-") else 1.0
    axis = "xyz".index(up[-1])
    third = (sign * (axis == 0), sign * (axis == 1), sign * (axis == 2))
    first = (float(axis != 0), float(axis == 0), 0.0)
    return first, _cross(third, first), third


def camera(up: str) -> tuple[Point, Point, Point]:
    """Right, up and backward (from the scene to the eye) of the first view."""
    first, second, third = upright(up)
    plane = (math.cos(AZIMUTH) * math.cos(ELEVATION), math.sin(AZIMUTH) * math.cos(ELEVATION))

    def mixed(axis: int) -> float:
        return plane[0] * first[axis] + plane[1] * second[axis] + math.sin(ELEVATION) * third[axis]

    back = (mixed(0), mixed(1), mixed(2))
    right = _cross(third, back)
    length = math.sqrt(sum(value * value for value in right))
    right = (right[0] / length, right[1] / length, right[2] / length)
    return right, _cross(back, right), back


class _Canvas:
    """A square picture with a depth buffer (distance from the eye)."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.pixels = bytearray(_PAPER * (side * side))
        self._depth = array("f", [math.inf]) * (side * side)

    def dot(self, x: int, y: int, depth: float, colour: bytes) -> None:
        if 0 <= x < self.side and 0 <= y < self.side:
            place = y * self.side + x
            if depth < self._depth[place]:
                self._depth[place] = depth
                self.pixels[3 * place : 3 * place + 3] = colour

    def disc(self, x: float, y: float, depth: float, radius: float, colour: bytes) -> None:
        for row in range(math.ceil(y - radius), math.floor(y + radius) + 1):
            half = math.sqrt(max(0.0, radius * radius - (row - y) ** 2))
            for column in range(math.ceil(x - half), math.floor(x + half) + 1):
                self.dot(column, row, depth, colour)

    def triangle(self, a: Point, b: Point, c: Point, colour: bytes) -> None:
        """Fill by edge functions; corners are (x, y, depth) in pixels."""
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        left, right = max(0, math.ceil(min(a[0], b[0], c[0]))), min(self.side - 1, int(max(a[0], b[0], c[0])))
        top, low = max(0, math.ceil(min(a[1], b[1], c[1]))), min(self.side - 1, int(max(a[1], b[1], c[1])))
        if right < left or low < top or area == 0:
            # Smaller than a pixel: it still covers something when it has a million neighbours.
            self.dot(round(a[0]), round(a[1]), a[2], colour)
            return
        for y in range(top, low + 1):
            for x in range(left, right + 1):
                u = ((b[0] - x) * (c[1] - y) - (b[1] - y) * (c[0] - x)) / area
                v = ((c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)) / area
                if u >= 0 and v >= 0 and u + v <= 1:
                    self.dot(x, y, u * a[2] + v * b[2] + (1 - u - v) * c[2], colour)


def _project(geometry: Geometry, side: int) -> list[Point | None]:
    """(x, y, depth) in pixels of every vertex; None behind the eye."""
    centre, radius = geometry.frame()
    right, up, back = camera(geometry.up)
    focal = side / 2 / math.tan(FIELD / 2)
    distance = DISTANCE * radius
    placed: list[Point | None] = []
    positions = geometry.positions
    for index in range(0, len(positions), 3):
        x, y, z = (
            positions[index] - centre[0],
            positions[index + 1] - centre[1],
            positions[index + 2] - centre[2],
        )
        depth = distance - (x * back[0] + y * back[1] + z * back[2])
        if not 0.01 * radius < depth < 1e6 * radius:  # also for what is no number
            placed.append(None)
            continue
        scale = focal / depth
        column = side / 2 + scale * (x * right[0] + y * right[1] + z * right[2])
        row = side / 2 - scale * (x * up[0] + y * up[1] + z * up[2])
        placed.append((column, row, depth))
    return placed


def _shade(colour: bytes, light: float) -> bytes:
    return bytes(int(value * light) for value in colour)


def _draw_mesh(geometry: Geometry, placed: list[Point | None], canvas: _Canvas) -> None:
    _, up, back = camera(geometry.up)
    lamp = tuple(0.45 * up[axis] + 0.9 * back[axis] for axis in range(3))
    p, t = geometry.positions, geometry.triangles
    for index in range(0, len(t), 3):
        i, j, k = t[index], t[index + 1], t[index + 2]
        a, b, c = placed[i], placed[j], placed[k]
        if a is None or b is None or c is None:
            continue
        i3, j3, k3 = 3 * i, 3 * j, 3 * k
        one = (p[j3] - p[i3], p[j3 + 1] - p[i3 + 1], p[j3 + 2] - p[i3 + 2])
        two = (p[k3] - p[i3], p[k3 + 1] - p[i3 + 1], p[k3 + 2] - p[i3 + 2])
        normal = _cross(one, two)
        length = math.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2) or 1.0
        facing = abs(normal[0] * lamp[0] + normal[1] * lamp[1] + normal[2] * lamp[2]) / length
        colour = geometry.colours[i3 : i3 + 3] or bytes(_PLAIN)
        canvas.triangle(a, b, c, _shade(colour, min(1.0, 0.3 + 0.7 * facing)))


def _draw_points(geometry: Geometry, placed: list[Point | None], canvas: _Canvas) -> None:
    focal = canvas.side / 2 / math.tan(FIELD / 2)
    # A part of a large cloud, each point for its neighbours: a picture is wanted within seconds.
    step = -(-len(placed) // _MOST_DISCS)
    focal *= math.sqrt(step)
    for index in range(0, len(placed), step):
        point = placed[index]
        if point is None or not (0 <= point[0] < canvas.side and 0 <= point[1] < canvas.side):
            continue
        colour = geometry.colours[3 * index : 3 * index + 3] or bytes(_PLAIN)
        size = focal * geometry.radii[index] / point[2] if geometry.radii else 1.0
        canvas.disc(point[0], point[1], point[2], min(_LARGEST_POINT, max(0.75, size)), colour)


def preview_png(geometry: Geometry, side: int = 480) -> bytes:
    """A picture of `side`×`side` pixels from in front, to the right and above."""
    canvas = _Canvas(2 * side)  # drawn twice as large and averaged: smooth edges
    placed = _project(geometry, 2 * side)
    (_draw_mesh if geometry.triangles else _draw_points)(geometry, placed, canvas)
    return encode_png(side, side, _halved(canvas))


def _halved(canvas: _Canvas) -> bytearray:
    side, pixels = canvas.side, canvas.pixels
    small = bytearray(3 * (side // 2) ** 2)
    for row in range(side // 2):
        upper = pixels[6 * side * row : 6 * side * row + 3 * side]
        lower = pixels[6 * side * row + 3 * side : 6 * side * (row + 1)]
        start = 3 * (side // 2) * row
        for channel in range(3):
            quartet = zip(
                upper[channel::6],
                upper[channel + 3 :: 6],
                lower[channel::6],
                lower[channel + 3 :: 6],
                strict=True,
            )
            small[start + channel : start + 3 * (side // 2) : 3] = bytes(sum(four) >> 2 for four in quartet)
    return small
