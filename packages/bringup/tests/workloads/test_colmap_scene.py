"""The synthetic scene, read back by a reader of COLMAP's binary files that shares no code with it."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bringup.steps.demos import colmap_scene

PROGRAM = Path(colmap_scene.__file__)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scene") / "data"
    command = [sys.executable, str(PROGRAM), str(out), "--views", "9", "--size", "192", "--points", "900"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "[   9/9]" in ran.stdout
    return out


class Reader:
    """Little-endian values one after the other (COLMAP's documentation, «Output Format»)."""

    def __init__(self, path: Path) -> None:
        self._data, self._place = path.read_bytes(), 0

    def take(self, kind: str, count: int = 1) -> np.ndarray:
        row = np.frombuffer(self._data, np.dtype(kind).newbyteorder("<"), count, self._place)
        self._place += row.nbytes
        return row

    def one(self, kind: str) -> int:
        return int(self.take(kind)[0])

    def name(self) -> str:
        end = self._data.index(b"\0", self._place)
        text = self._data[self._place : end].decode()
        self._place = end + 1
        return text

    @property
    def ended(self) -> bool:
        return self._place == len(self._data)


def read_cameras(path: Path) -> dict[int, tuple[int, int, int, np.ndarray]]:
    reader = Reader(path)
    rows = {}
    for _ in range(reader.one("u8")):
        key, model = reader.one("i4"), reader.one("i4")
        rows[key] = (model, reader.one("u8"), reader.one("u8"), reader.take("f8", 4))
    assert reader.ended
    return rows


def read_images(path: Path) -> list[dict[str, object]]:
    reader = Reader(path)
    rows = []
    for _ in range(reader.one("u8")):
        row: dict[str, object] = {
            "id": reader.one("i4"),
            "q": reader.take("f8", 4),
            "t": reader.take("f8", 3),
        }
        row |= {"camera": reader.one("i4"), "name": reader.name()}
        pixels, points = [], []
        for _ in range(reader.one("u8")):
            pixels.append(reader.take("f8", 2))
            points.append(reader.one("i8"))
        rows.append(row | {"pixels": np.array(pixels), "points": points})
    assert reader.ended
    return rows


def read_points(path: Path) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    reader = Reader(path)
    rows = {}
    for _ in range(reader.one("u8")):
        key, place, colour = reader.one("u8"), reader.take("f8", 3), reader.take("u1", 3)
        reader.take("f8")
        rows[key] = (place, colour, reader.take("i4", 2 * reader.one("u8")).reshape(-1, 2))
    assert reader.ended
    return rows


def turned(q: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points turned by a unit quaternion: p + 2w (v × p) + 2 v × (v × p)."""
    w, v = q[0], q[1:]
    once = np.cross(v, points)
    return points + 2 * w * once + 2 * np.cross(v, once)


def test_the_model_is_whole(scene: Path) -> None:
    sparse = scene / "sparse" / "0"
    ((model, width, height, parameters),) = read_cameras(sparse / "cameras.bin").values()
    assert (model, width, height) == (1, 192, 192)
    np.testing.assert_allclose(parameters, [96 / math.tan(math.radians(25))] * 2 + [96, 96])
    images, points = read_images(sparse / "images.bin"), read_points(sparse / "points3D.bin")
    assert [row["name"] for row in images] == sorted(file.name for file in (scene / "images").iterdir())
    assert len(images) == 9 and 300 < len(points) <= 910
    for row in images:
        assert np.linalg.norm(row["q"]) == pytest.approx(1)
        assert Image.open(scene / "images" / str(row["name"])).size == (192, 192)
    by_id = {row["id"]: row for row in images}
    for key, (_, _, track) in points.items():
        assert len(track) >= 2
        for image, place in track:
            assert by_id[image]["points"][place] == key


def test_points_lie_on_the_pixels_that_show_them(scene: Path) -> None:
    sparse = scene / "sparse" / "0"
    ((_, _, _, (fx, fy, cx, cy)),) = read_cameras(sparse / "cameras.bin").values()
    points = read_points(sparse / "points3D.bin")
    differences = []
    for row in read_images(sparse / "images.bin"):
        keys = [key for key in row["points"] if key in points]
        world = np.array([points[key][0] for key in keys])
        placed = turned(row["q"], world) + row["t"]
        pixels = placed[:, :2] / placed[:, 2:] * [fx, fy] + [cx, cy]
        listed = dict(zip(row["points"], row["pixels"], strict=True))
        np.testing.assert_allclose(pixels, [listed[key] for key in keys], atol=1e-6)
        assert (placed[:, 2] > 0).all()
        picture = np.asarray(Image.open(scene / "images" / row["name"])).astype(int)
        column, line = np.floor(pixels).astype(int).T
        shown = picture[line, column]
        differences.append(np.abs(shown - [points[key][1] for key in keys]).max(axis=1))
    # Pixels on the border of two checks mix both: most agree, and a wrong pose would make few agree.
    agreeing = (np.concatenate(differences) < 12).mean()
    assert agreeing > 0.75, agreeing


def test_a_mirrored_or_shifted_pose_would_be_seen(scene: Path) -> None:
    """The test above can fail: with the pictures mirrored, the colours no longer agree."""
    points = read_points(scene / "sparse" / "0" / "points3D.bin")
    agreeing = []
    for row in read_images(scene / "sparse" / "0" / "images.bin"):
        picture = np.asarray(Image.open(scene / "images" / row["name"]))[:, ::-1].astype(int)
        for key, (x, y) in zip(row["points"], row["pixels"], strict=True):
            if key in points:
                agreeing.append(np.abs(picture[int(y), int(x)] - points[key][1]).max() < 12)
    assert np.mean(agreeing) < 0.4


def digest(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def test_the_same_arguments_give_the_same_bytes(scene: Path, tmp_path: Path) -> None:
    colmap_scene.write_scene(tmp_path / "again", 9, 192, 900)
    assert digest(tmp_path / "again") == digest(scene)
    before = (scene / "scene.json").stat().st_mtime_ns
    colmap_scene.write_scene(scene, 9, 192, 900)
    assert (scene / "scene.json").stat().st_mtime_ns == before
    assert not list(scene.parent.glob(".*partial"))
