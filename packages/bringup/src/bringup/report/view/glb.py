"""Binary glTF 2.0: triangles of all nodes in their places, colours of vertices or of the material.

Source: Khronos, glTF 2.0 specification, sections 3.6 (buffers and accessors), 3.7 (geometry), 4.4 (GLB).
Textures, animations and compressed buffers are not read.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bringup.errors import BringupError
from bringup.report.view.geometry import Geometry, uint32

_CODES = {5120: "b", 5121: "B", 5122: "h", 5123: "H", 5125: "I", 5126: "f"}
_WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_TRIANGLES = 4
_JSON, _BINARY = 0x4E4F534A, 0x004E4942
_DEEPEST = 64

Matrix = tuple[float, ...]  # 4×4, column after column, as glTF writes it
_IDENTITY: Matrix = (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1)


def _chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    magic, version, length = struct.unpack_from("<4sII", data)
    if magic != b"glTF" or version != 2 or length > len(data):
        raise ValueError("it is no binary glTF 2.0, or is cut off")
    document: dict[str, Any] | None = None
    binary, place = b"", 12
    while place + 8 <= length:
        size, kind = struct.unpack_from("<II", data, place)
        body = data[place + 8 : place + 8 + size]
        if kind == _JSON:
            document = json.loads(body)
        elif kind == _BINARY:
            binary = body
        place += 8 + size
    if document is None:
        raise ValueError("it has no JSON chunk")
    return document, binary


def _accessor(document: dict[str, Any], binary: bytes, index: int) -> list[tuple[float, ...]]:
    """Rows of an accessor; normalised integers as fractions."""
    row = document["accessors"][index]
    if "sparse" in row or "bufferView" not in row:
        raise ValueError("sparse accessors are not read")
    view = document["bufferViews"][row["bufferView"]]
    if view.get("buffer", 0) != 0 or "uri" in document["buffers"][0]:
        raise ValueError("its data lie in another file")
    code, width = _CODES[row["componentType"]], _WIDTH[row["type"]]
    record = struct.Struct(f"<{width}{code}")
    stride = view.get("byteStride") or record.size
    start = view.get("byteOffset", 0) + row.get("byteOffset", 0)
    count = row["count"]
    if start + stride * (count - 1) + record.size > len(binary):
        raise ValueError("an accessor leads outside of the file")
    rows = [record.unpack_from(binary, start + number * stride) for number in range(count)]
    if row.get("normalized"):
        most = {"B": 255, "H": 65535, "b": 127, "h": 32767}[code]
        return [tuple(value / most for value in entry) for entry in rows]
    return rows


def _product(left: Matrix, right: Matrix) -> Matrix:
    return tuple(
        sum(left[4 * k + row] * right[4 * column + k] for k in range(4))
        for column in range(4)
        for row in range(4)
    )


def _local(node: dict[str, Any]) -> Matrix:
    if "matrix" in node:
        return tuple(map(float, node["matrix"]))
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    a, b, c = node.get("scale", (1, 1, 1))
    p, q, r = node.get("translation", (0, 0, 0))
    return (
        a * (1 - 2 * (y * y + z * z)), a * 2 * (x * y + z * w), a * 2 * (x * z - y * w), 0,
        b * 2 * (x * y - z * w), b * (1 - 2 * (x * x + z * z)), b * 2 * (y * z + x * w), 0,
        c * 2 * (x * z + y * w), c * 2 * (y * z - x * w), c * (1 - 2 * (x * x + y * y)), 0,
        p, q, r, 1,
    )  # fmt: skip


class _Gathering:
    """Collects the triangles of nodes."""

    def __init__(self, document: dict[str, Any], binary: bytes) -> None:
        self._document, self._binary = document, binary
        self.positions, self.triangles, self.colours = array("f"), uint32(), bytearray()

    def node(self, index: int, parent: Matrix, depth: int = 0) -> None:
        if depth > _DEEPEST:
            raise ValueError("its nodes are nested too deep")
        node = self._document["nodes"][index]
        place = _product(parent, _local(node))
        if "mesh" in node:
            for primitive in self._document["meshes"][node["mesh"]]["primitives"]:
                self._primitive(primitive, place)
        for child in node.get("children", ()):
            self.node(child, place, depth + 1)

    def _primitive(self, primitive: dict[str, Any], m: Matrix) -> None:
        if primitive.get("mode", _TRIANGLES) != _TRIANGLES or "POSITION" not in primitive["attributes"]:
            return
        if "KHR_draco_mesh_compression" in primitive.get("extensions", {}):
            raise ValueError("compressed meshes (Draco) are not read")
        base = len(self.positions) // 3
        rows = _accessor(self._document, self._binary, primitive["attributes"]["POSITION"])
        for x, y, z in rows:
            self.positions.extend(
                m[axis] * x + m[4 + axis] * y + m[8 + axis] * z + m[12 + axis] for axis in range(3)
            )
        corners: Sequence[int] = range(len(rows))
        if "indices" in primitive:
            corners = [int(row[0]) for row in _accessor(self._document, self._binary, primitive["indices"])]
        if any(not 0 <= corner < len(rows) for corner in corners):
            raise ValueError("a triangle names a vertex that is not there")
        self.triangles.extend(base + corner for corner in corners[: len(corners) // 3 * 3])
        self.colours += self._colours_of(primitive, len(rows))

    def _colours_of(self, primitive: dict[str, Any], count: int) -> bytes:
        """Linear values become sRGB, as glTF says of vertex colours and of the material's factor."""
        if "COLOR_0" in primitive["attributes"]:
            rows = _accessor(self._document, self._binary, primitive["attributes"]["COLOR_0"])
            # trimesh writes sRGB bytes into COLOR_0 and reads them back so; bytes are shown as they are.
            kind = self._document["accessors"][primitive["attributes"]["COLOR_0"]]["componentType"]
            shown = _plain if _CODES[kind] == "B" else _srgb
            return b"".join(bytes(shown(value) for value in row[:3]) for row in rows)
        materials = self._document.get("materials", ())
        material = materials[primitive["material"]] if "material" in primitive else {}
        factor = material.get("pbrMetallicRoughness", {}).get("baseColorFactor", (0.6, 0.6, 0.6))
        return bytes(_srgb(value) for value in factor[:3]) * count


def _plain(value: float) -> int:
    return min(255, max(0, round(255 * value)))


def _srgb(value: float) -> int:
    bent = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return _plain(bent)


def read_glb(path: Path) -> Geometry:
    """Read the default scene of a GLB file.

    Raises:
        BringupError: `view-unreadable`.
    """
    try:
        document, binary = _chunks(path.read_bytes())
        gathering = _Gathering(document, binary)
        scenes = document.get("scenes", ())
        nodes = scenes[document.get("scene", 0)].get("nodes", ()) if scenes else range(len(document["nodes"]))
        for index in nodes:
            gathering.node(index, _IDENTITY)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError, struct.error) as error:
        raise BringupError("view-unreadable", path=path, text=error) from error
    return Geometry(gathering.positions, bytes(gathering.colours), gathering.triangles, up="y")
