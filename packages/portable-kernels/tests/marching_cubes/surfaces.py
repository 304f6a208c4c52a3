"""Volumes with known surfaces, and what makes a mesh a closed one. Shared by this folder's tests."""

from __future__ import annotations

import torch


def grid(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return x, y, z in [-1, 1] on a (D, H, W) grid."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    return x, y, z


def sphere(*shape: int, radius: float = 0.7) -> torch.Tensor:
    """Radius minus the distance from the centre: positive inside."""
    x, y, z = grid(*shape)
    return radius - (x * x + y * y + z * z).sqrt()


def torus(*shape: int) -> torch.Tensor:
    x, y, z = grid(*shape)
    return 0.25 - (((x * x + y * y).sqrt() - 0.6) ** 2 + z * z).sqrt()


def noise(*shape: int, seed: int = 0, closed: bool = False) -> torch.Tensor:
    """Random values, every case of the table among them; `closed` puts a border of one sign around."""
    volume = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if closed:
        volume[[0, -1]] = volume[:, [0, -1]] = volume[:, :, [0, -1]] = -9.0
    return volume


def open_edges(faces: torch.Tensor) -> torch.Tensor:
    """Return the directed edges (E, 2) that are not met by exactly one edge the other way round."""
    f = faces.long()
    directed = torch.cat([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]])
    size = int(f.max()) + 1 if len(f) else 1
    key, count = (directed[:, 0] * size + directed[:, 1]).unique(return_counts=True)
    back = (directed[:, 1] * size + directed[:, 0]).unique()
    alone = ~torch.isin(key, back) | (count != 1)
    return torch.stack([key[alone] // size, key[alone] % size], 1)


def euler_characteristic(vertices: torch.Tensor, faces: torch.Tensor) -> int:
    """V - E + F: 2 for each sphere, 0 for each torus."""
    f = faces.long()
    edges = torch.cat([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]]).sort(1).values.unique(dim=0)
    return len(vertices) - len(edges) + len(faces)


def signed_volume(vertices: torch.Tensor, faces: torch.Tensor) -> float:
    """The volume enclosed, positive where normals point outwards."""
    a, b, c = vertices.double()[faces.long()].unbind(1)
    return float((torch.linalg.cross(a, b) * c).sum() / 6)


def hausdorff(a: torch.Tensor, b: torch.Tensor) -> float:
    """The greatest distance from a point of either set to the nearest of the other."""
    distance = torch.cdist(a.double(), b.double())
    return float(torch.maximum(distance.amin(0).max(), distance.amin(1).max()))
