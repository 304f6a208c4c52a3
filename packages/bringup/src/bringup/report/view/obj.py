"""Wavefront OBJ: vertices, their colours (`v x y z r g b`), faces. Materials are not read.

Source: Wavefront, «Advanced Visualizer» manual, appendix B1; colours after the coordinates are a common
extension (MeshLab, trimesh).
"""

from __future__ import annotations

from array import array
from pathlib import Path

from bringup.errors import BringupError
from bringup.report.view.geometry import Geometry, fan, uint32


def _corner(word: str, count: int) -> int:
    """Index of a corner's vertex (`7`, `7/1`, `7//3`; negative: from the last one back)."""
    number = int(word.partition("/")[0])
    index = number - 1 if number > 0 else count + number
    if not 0 <= index < count:
        raise ValueError(f"a face names vertex {number} of {count}")
    return index


def read_obj(path: Path) -> Geometry:
    """Read an OBJ file; polygons become fans of triangles.

    Raises:
        BringupError: `view-unreadable`, naming the line.
    """
    positions, triangles, colours = array("f"), uint32(), bytearray()
    line = ""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("v "):
                    values = [float(word) for word in line.split()[1:]]
                    positions.extend(values[:3] if len(values) >= 3 else _too_few())
                    if len(values) >= 6:
                        colours += bytes(min(255, max(0, round(255 * value))) for value in values[3:6])
                elif line.startswith("f "):
                    triangles.extend(fan([_corner(word, len(positions) // 3) for word in line.split()[1:]]))
    except (ValueError, OverflowError) as error:
        raise BringupError("view-unreadable", path=path, text=f"{line.strip()[:60]}: {error}") from error
    if len(colours) != len(positions):
        colours.clear()  # colours of some vertices only say nothing of the others
    return Geometry(positions, bytes(colours), triangles)


def _too_few() -> list[float]:
    raise ValueError("a vertex has fewer than three coordinates")
