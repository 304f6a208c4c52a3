"""Real files: a mesh by portable-kernels' marching cubes, Gaussians as 3DGS's training writes them."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import torch

from portable_kernels.marching_cubes import marching_cubes

Mesh = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def ball(size: int = 40) -> Mesh:
    """A bumpy ball in a unit cube: vertices (n, 3), triangles (m, 3), colours (n, 3) of 0–1."""
    axis = torch.linspace(-1.0, 1.0, size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = (x * x + y * y + z * z).sqrt()
    bumps = 0.05 * torch.sin(9 * torch.atan2(y, x)) * torch.cos(5 * z)
    vertices, triangles = marching_cubes(0.75 + bumps - radius, 0.0)
    placed = vertices / (size - 1) * 2 - 1
    colours = torch.stack([placed[:, 0] > 0, placed[:, 1] > 0, placed[:, 2] > 0], 1).float() * 0.8 + 0.1
    return placed, triangles.long(), colours


def write_obj(path: Path, mesh: Mesh) -> None:
    """As trimesh writes coloured vertices."""
    vertices, triangles, colours = (part.tolist() for part in mesh)
    lines = ["# a mesh"]
    for place, colour in zip(vertices, colours, strict=True):
        lines.append("v " + " ".join(f"{value:.8f}" for value in [*place, *colour]))
    lines += ["f " + " ".join(f"{corner + 1}//{corner + 1}" for corner in row) for row in triangles]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_ply(path: Path, mesh: Mesh, order: str) -> None:
    """`order`: "" (ASCII), "<" or ">"; colours are bytes, faces lists of int."""
    name = {"": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[order]
    vertices, triangles, colours = (part.tolist() for part in mesh)
    header = f"ply\nformat {name} 1.0\ncomment made here\nelement vertex {len(vertices)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz")
    header += "".join(f"property uchar {channel}\n" for channel in ("red", "green", "blue"))
    header += f"element face {len(triangles)}\nproperty list uchar int vertex_indices\nend_header\n"
    body = bytearray()
    for place, colour in zip(vertices, colours, strict=True):
        row = [*place, *(round(255 * value) for value in colour)]
        body += struct.pack(f"{order}3f3B", *row) if order else (" ".join(map(str, row)) + "\n").encode()
    for row in triangles:
        body += struct.pack(f"{order}B3i", 3, *row) if order else f"3 {row[0]} {row[1]} {row[2]}\n".encode()
    path.write_bytes(header.encode() + body)


def write_glb(path: Path, mesh: Mesh) -> None:
    """Colours as bytes, indices of 32 bits, the node turned by 90° about x and moved."""
    vertices, triangles, colours = mesh
    parts = [
        struct.pack(f"<{vertices.numel()}f", *vertices.flatten().tolist()),
        bytes((torch.cat([colours, torch.ones(len(colours), 1)], 1) * 255).round().byte().flatten().tolist()),
        struct.pack(f"<{triangles.numel()}I", *triangles.flatten().tolist()),
    ]
    views, place = [], 0
    for part in parts:
        views.append({"buffer": 0, "byteOffset": place, "byteLength": len(part)})
        place += len(part)
    accessors = [
        {"bufferView": 0, "componentType": 5126, "count": len(vertices), "type": "VEC3"},
        {"bufferView": 1, "componentType": 5121, "count": len(vertices), "type": "VEC4", "normalized": True},
        {"bufferView": 2, "componentType": 5125, "count": triangles.numel(), "type": "SCALAR"},
    ]
    half = math.sqrt(0.5)
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [
            {"children": [1], "translation": [10, 0, 0]},
            {"mesh": 0, "rotation": [half, 0, 0, half]},
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2}]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": place}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary = b"".join(parts)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


def write_gaussians(path: Path, count: int, degree: int = 3) -> torch.Tensor:
    """A ball of Gaussians under the names of 3DGS's point_cloud.ply; a quarter of them invisible.

    Returns: their colours, (n, 3) of 0–1.
    """
    generator = torch.Generator().manual_seed(0)
    places = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    colours = 0.5 + 0.45 * places
    rest = 3 * ((degree + 1) ** 2 - 1)
    opacity = torch.full((count, 1), 4.0)
    opacity[::4] = -6.0
    columns = [
        places,
        torch.zeros(count, 3),
        (colours - 0.5) / 0.28209479177387814,
        torch.zeros(count, rest),
        opacity,
        torch.full((count, 3), math.log(0.03)),
        torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
    ]
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [*(f"f_rest_{i}" for i in range(rest)), "opacity"]
    names += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
    header += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    values = torch.cat(columns, 1).float().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode() + values.numpy().astype("<f4").tobytes())
    return colours
