"""Any file or folder of a workload's result → what is shown of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from bringup.errors import BringupError
from bringup.report.view.geometry import Geometry
from bringup.report.view.glb import read_glb
from bringup.report.view.obj import read_obj
from bringup.report.view.ply import read_ply

SUFFIXES = (".obj", ".ply", ".glb")
LARGEST_FILE = 2_000_000_000
MOST_TRIANGLES = 3_000_000
MOST_POINTS = 600_000


def find_file(path: Path) -> Path:
    """The file itself, or the newest one of a folder: a 3DGS model's last iteration, else any mesh.

    Raises:
        BringupError: `view-nothing`.
    """
    if path.is_file():
        return path
    clouds = sorted(path.glob("point_cloud/iteration_*/point_cloud.ply"), key=_iteration)
    if clouds:
        return clouds[-1]
    found = [file for suffix in SUFFIXES for file in path.glob(f"**/*{suffix}")]
    if not found:
        raise BringupError("view-nothing", exit_code=2, path=path, known=", ".join(SUFFIXES))
    return max(found, key=lambda file: file.stat().st_mtime_ns)


def _iteration(path: Path) -> int:
    match = re.search(r"(\d+)$", path.parent.name)
    return int(match[1]) if match else -1


def _up_of_cameras(cloud: Path) -> str | None:
    """The axis nearest to what was up for the cameras of a 3DGS model, by the `cameras.json` in its folder.

    Source: what train.py writes there; `rotation` (3 rows) takes camera to world, y points down in a camera.
    """
    try:
        text = cloud.parents[2].joinpath("cameras.json").read_text(encoding="utf-8")
        turned = [camera["rotation"] for camera in json.loads(text)]
        ups = [-sum(float(rotation[axis][1]) for rotation in turned) for axis in range(3)]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if not any(ups):
        return None
    axis = max(range(3), key=lambda axis: abs(ups[axis]))
    return ("-" if ups[axis] < 0 else "") + "xyz"[axis]


def read_geometry(path: Path, limit: int = MOST_POINTS) -> Geometry:
    """Read a mesh or a scene.

    Raises:
        BringupError: `view-kind`, `view-unreadable`, `view-too-large`, `view-empty`.
    """
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise BringupError("view-too-large", path=path, found=f"{size / 1e9:.1f} GB", most="2 GB")
    suffix = path.suffix.lower()
    if suffix == ".obj":
        geometry = read_obj(path)
    elif suffix == ".ply":
        geometry = read_ply(path, limit)
        if len(geometry.radii):  # Gaussians lie as their cameras were placed: any way up
            geometry = replace(geometry, up=_up_of_cameras(path) or geometry.up)
    elif suffix == ".glb":
        geometry = read_glb(path)
    else:
        raise BringupError("view-kind", exit_code=2, path=path, known=", ".join(SUFFIXES))
    triangles = len(geometry.triangles) // 3
    if triangles > MOST_TRIANGLES:
        found, most = f"{triangles:,} triangles", f"{MOST_TRIANGLES:,}"
        raise BringupError("view-too-large", path=path, found=found, most=most)
    if geometry.count == 0:
        raise BringupError("view-empty", path=path)
    return geometry
