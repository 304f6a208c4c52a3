"""A small synthetic scene as COLMAP writes one: `images/` and `sparse/0/{cameras,images,points3D}.bin`.

Run by the target's Python (numpy and Pillow are there): `python colmap_scene.py OUT`. A checked floor, balls
and boxes with textures, lit from one side on black, seen by cameras around and above. The same arguments
give the same bytes on one version of numpy.

Source of the formats: COLMAP's documentation, «Output Format» (binary files, little-endian; a camera's pose
takes world to camera, x right, y down, z forward; pixel centres lie at .5).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_PINHOLE = 1  # COLMAP's number of the model fx, fy, cx, cy
_FIELD = math.radians(50)
_DISTANCE = 4.2
_LOOK_AT = np.array([0.0, 0.0, 0.35])
_LAMP = np.array([0.5, 0.3, 0.81]) / np.linalg.norm([0.5, 0.3, 0.81])
_GOLDEN = math.pi * (3 - math.sqrt(5))
_FAR = 1e9
_DONE = "scene.json"


@dataclass(frozen=True)
class Ball:
    """A sphere. `colours`: of its stripes along the height."""

    centre: tuple[float, float, float]
    radius: float
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    stripes: float

    def hit(self, origin: Floats, rays: Floats) -> Floats:
        """Distances (n,) along unit rays (n, 3); `_FAR` where there is none."""
        offset = origin - np.array(self.centre)
        half = rays @ offset if offset.ndim == 1 else (rays * offset).sum(1)
        inside = half**2 - (offset * offset).sum(-1) + self.radius**2
        near = -half - np.sqrt(np.maximum(inside, 0))
        return np.asarray(np.where((inside > 0) & (near > 1e-6), near, _FAR))

    def surface(self, points: Floats) -> tuple[Floats, Floats]:
        """Normals and colours (n, 3) at points on it."""
        normals = (points - np.array(self.centre)) / self.radius
        angle = np.arctan2(normals[:, 1], normals[:, 0])
        other = np.sin(self.stripes * np.pi * normals[:, 2]) * np.cos(2 * angle) > 0
        first, second = (np.array(colour) for colour in self.colours)
        return normals, np.asarray(np.where(other[:, None], first, second))

    def scatter(self, count: int, generator: np.random.Generator) -> Floats:
        """Points on it."""
        directions = generator.normal(size=(count, 3))
        unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        return np.asarray(np.array(self.centre) + self.radius * unit)

    @property
    def area(self) -> float:
        return 4 * math.pi * self.radius**2


@dataclass(frozen=True)
class Box:
    """An upright box between two corners. `colours`: of its checks, `check` wide."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    check: float

    def hit(self, origin: Floats, rays: Floats) -> Floats:
        """As `Ball.hit`, by slabs (Kay and Kajiya 1986)."""
        safe = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
        one, two = (np.array(self.low) - origin) / safe, (np.array(self.high) - origin) / safe
        enters = np.minimum(one, two).max(axis=1)
        leaves = np.maximum(one, two).min(axis=1)
        return np.asarray(np.where((enters < leaves) & (enters > 1e-6), enters, _FAR))

    def surface(self, points: Floats) -> tuple[Floats, Floats]:
        """As `Ball.surface`."""
        middle = (np.array(self.low) + np.array(self.high)) / 2
        half = (np.array(self.high) - np.array(self.low)) / 2
        scaled = (points - middle) / half
        axis = np.abs(scaled).argmax(axis=1)
        rows = np.arange(len(points))
        normals = np.zeros_like(points)
        normals[rows, axis] = np.sign(scaled[rows, axis])
        # A little off the surface, so that rounding does not decide in which check a face lies.
        cells = np.floor((points - 1e-6 * normals - np.array(self.low)) / self.check).astype(np.int64)
        even = (cells.sum(axis=1) % 2 == 0)[:, None]
        return normals, np.asarray(np.where(even, np.array(self.colours[0]), np.array(self.colours[1])))

    def scatter(self, count: int, generator: np.random.Generator) -> Floats:
        """As `Ball.scatter`."""
        low, size = np.array(self.low), np.array(self.high) - np.array(self.low)
        areas = np.array([size[1] * size[2], size[0] * size[2], size[0] * size[1]])
        points = low + size * generator.random((count, 3))
        axis = generator.choice(3, size=count, p=areas / areas.sum())
        rows = np.arange(count)
        points[rows, axis] = np.where(generator.random(count) < 0.5, low[axis], (low + size)[axis])
        return np.asarray(points)

    @property
    def area(self) -> float:
        a, b, c = (high - low for low, high in zip(self.low, self.high, strict=True))
        return 2 * (a * b + b * c + a * c)


Thing = Ball | Box
SCENE: tuple[Thing, ...] = (
    Box((-1.6, -1.6, -0.1), (1.6, 1.6, 0.0), ((0.85, 0.82, 0.75), (0.35, 0.38, 0.45)), 0.4),
    Ball((0.0, 0.0, 0.5), 0.5, ((0.85, 0.2, 0.15), (0.95, 0.75, 0.3)), 3),
    Ball((0.95, -0.5, 0.3), 0.3, ((0.15, 0.45, 0.85), (0.9, 0.9, 0.95)), 4),
    Ball((-0.4, 1.0, 0.25), 0.25, ((0.2, 0.65, 0.3), (0.85, 0.9, 0.4)), 5),
    Box((-1.25, -0.95, 0.0), (-0.65, -0.35, 0.7), ((0.55, 0.25, 0.65), (0.9, 0.7, 0.85)), 0.15),
    Box((0.6, 0.55, 0.0), (1.15, 1.1, 0.4), ((0.95, 0.55, 0.15), (0.3, 0.2, 0.15)), 0.12),
)


@dataclass(frozen=True)
class View:
    """A camera. `rotation` (3, 3) and `translation` (3,) take world to camera."""

    name: str
    rotation: Floats
    translation: Floats

    @property
    def eye(self) -> Floats:
        """Its centre in the world."""
        return np.asarray(-self.rotation.T @ self.translation)


def make_views(count: int) -> list[View]:
    """Cameras on a spiral around the scene, from low to high."""
    views = []
    for number in range(count):
        height = math.radians(12 + 50 * (number + 0.5) / count)
        around = number * _GOLDEN
        direction = np.array(
            [math.cos(around) * math.cos(height), math.sin(around) * math.cos(height), math.sin(height)]
        )
        eye, forward = _LOOK_AT + _DISTANCE * direction, -direction
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        views.append(View(f"view_{number:03d}.png", rotation, -rotation @ eye))
    return views


def quaternion(rotation: Floats) -> Floats:
    """(w, x, y, z) of a rotation, w ≥ 0: the eigenvector of Bar-Itzhack (2000)."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    symmetric = np.array(
        [
            [a - e - i, 0, 0, 0],
            [d + b, e - a - i, 0, 0],
            [g + c, h + f, i - a - e, 0],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    _, vectors = np.linalg.eigh(symmetric / 3, UPLO="L")
    found = vectors[[3, 0, 1, 2], 3]
    return np.asarray(found if found[0] >= 0 else -found)


def first_hit(origin: Floats, rays: Floats) -> tuple[Floats, Integers]:
    """Distance (n,) and number of the thing (n,) that each unit ray (n, 3) meets first."""
    distances = np.stack([thing.hit(origin, rays) for thing in SCENE])
    return distances.min(axis=0), distances.argmin(axis=0).astype(np.int64)


def shade(points: Floats, things: Integers) -> Floats:
    """Colours (n, 3) of 0–1 at points on things."""
    colours = np.zeros_like(points)
    for number, thing in enumerate(SCENE):
        chosen = things == number
        normals, own = thing.surface(points[chosen])
        colours[chosen] = own * (0.35 + 0.65 * np.maximum(normals @ _LAMP, 0))[:, None]
    return colours


def render(view: View, size: int, samples: int = 2) -> NDArray[np.uint8]:
    """A picture (size, size, 3), `samples`² rays a pixel."""
    side = size * samples
    focal = side / 2 / math.tan(_FIELD / 2)
    grid = np.arange(side) + 0.5 - side / 2
    x, y = np.meshgrid(grid / focal, grid / focal)
    rays = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ view.rotation
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    distance, things = first_hit(view.eye, rays)
    met = distance < _FAR
    colours = np.zeros_like(rays)
    colours[met] = shade(view.eye + distance[met, None] * rays[met], things[met])
    pixels = colours.reshape(size, samples, size, samples, 3).mean(axis=(1, 3))
    return np.asarray(np.round(255 * pixels), dtype=np.uint8)


def scatter(count: int) -> tuple[Floats, Integers]:
    """Points (n, 3) on all surfaces, by area, and the things that they lie on."""
    generator = np.random.Generator(np.random.PCG64(7))
    areas = np.array([thing.area for thing in SCENE])
    shares = np.maximum(1, np.round(count * areas / areas.sum())).astype(int)
    points = [thing.scatter(int(n), generator) for thing, n in zip(SCENE, shares, strict=True)]
    return np.concatenate(points), np.repeat(np.arange(len(SCENE)), shares).astype(np.int64)


def seen(view: View, points: Floats, size: int) -> tuple[Floats, Integers]:
    """Pixels (k, 2) of the points that a view sees, and their numbers (k,)."""
    placed = points @ view.rotation.T + view.translation
    focal = size / 2 / math.tan(_FIELD / 2)
    pixels = focal * placed[:, :2] / placed[:, 2:] + size / 2
    rays = points - view.eye
    distance = np.linalg.norm(rays, axis=1)
    nearest, _ = first_hit(view.eye, rays / distance[:, None])
    inside = ((pixels >= 0) & (pixels < size)).all(axis=1) & (placed[:, 2] > 0)
    chosen = np.flatnonzero(inside & (nearest > distance - 1e-4))
    return pixels[chosen], chosen.astype(np.int64)


def _write_model(folder: Path, views: Sequence[View], points: Floats, things: Integers, size: int) -> None:
    folder.mkdir(parents=True)
    focal = size / 2 / math.tan(_FIELD / 2)
    camera = struct.pack("<Qii2Q4d", 1, 1, _PINHOLE, size, size, focal, focal, size / 2, size / 2)
    (folder / "cameras.bin").write_bytes(camera)
    tracks: list[list[tuple[int, int]]] = [[] for _ in points]
    images = bytearray(struct.pack("<Q", len(views)))
    for number, view in enumerate(views, 1):
        pixels, chosen = seen(view, points, size)
        images += struct.pack("<i7di", number, *quaternion(view.rotation), *view.translation, 1)
        images += view.name.encode() + b"\0" + struct.pack("<Q", len(chosen))
        for place, ((x, y), point) in enumerate(zip(pixels, chosen, strict=True)):
            images += struct.pack("<2dq", x, y, point + 1)
            tracks[point].append((number, place))
    (folder / "images.bin").write_bytes(images)
    colours = np.round(255 * shade(points, things)).astype(int)
    used = [number for number, track in enumerate(tracks) if len(track) >= 2]
    table = bytearray(struct.pack("<Q", len(used)))
    for number in used:
        table += struct.pack("<Q3d3Bd", number + 1, *points[number], *colours[number].tolist(), 0.5)
        table += struct.pack("<Q", len(tracks[number]))
        for image, place in tracks[number]:
            table += struct.pack("<2i", image, place)
    (folder / "points3D.bin").write_bytes(table)


def write_scene(out: Path, views: int = 60, size: int = 256, points: int = 5000) -> None:
    """Write the scene; one that is there whole, from the same arguments, is kept."""
    wanted = {"views": views, "size": size, "points": points}
    done = out / _DONE
    if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == wanted:
        print(f"{out}: {views} views are there already")
        return
    partial = out.with_name(f".{out.name}.partial")
    for folder in (partial, out):
        shutil.rmtree(folder, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    cameras = make_views(views)
    for number, view in enumerate(cameras, 1):
        Image.fromarray(render(view, size)).save(partial / "images" / view.name)
        if number % 10 == 0 or number == views:
            print(f"[{number:4d}/{views}] pictures of {size}x{size}", flush=True)
    places, things = scatter(points)
    _write_model(partial / "sparse" / "0", cameras, places, things, size)
    (partial / _DONE).write_text(json.dumps(wanted), encoding="utf-8")
    partial.replace(out)
    print(f"{out}: {views} views, {len(places)} points")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a small synthetic COLMAP scene.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--points", type=int, default=5000, help="sparse points")
    given = parser.parse_args()
    write_scene(given.out.absolute(), given.views, given.size, given.points)


if __name__ == "__main__":
    main()
