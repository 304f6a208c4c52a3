"""Real spherical harmonics up to degree 3, in the order and with the signs that 3D Gaussian splatting
stores.
"""

from __future__ import annotations

from math import pi, sqrt

import torch

_C0 = 0.5 * sqrt(1 / pi)
_C1 = 0.5 * sqrt(3 / pi)
_C2 = (0.5 * sqrt(15 / pi), 0.25 * sqrt(5 / pi), 0.25 * sqrt(15 / pi))
_C3 = (
    0.25 * sqrt(35 / (2 * pi)),
    0.5 * sqrt(105 / pi),
    0.25 * sqrt(21 / (2 * pi)),
    0.25 * sqrt(7 / pi),
    0.25 * sqrt(105 / pi),
)


def basis(degree: int, directions: torch.Tensor) -> torch.Tensor:
    """Unit directions (N, 3) → values of the basis (N, (degree + 1)²). `degree` 0 to 3."""
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, _C0)]
    if degree > 0:
        values += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            _C2[0] * x * y,
            -_C2[0] * y * z,
            _C2[1] * (2 * zz - xx - yy),
            -_C2[0] * x * z,
            _C2[2] * (xx - yy),
        ]
        if degree > 2:
            values += [
                -_C3[0] * y * (3 * xx - yy),
                _C3[1] * x * y * z,
                -_C3[2] * y * (4 * zz - xx - yy),
                _C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
                -_C3[2] * x * (4 * zz - xx - yy),
                _C3[4] * z * (xx - yy),
                -_C3[0] * x * (xx - 3 * yy),
            ]
    return torch.stack(values, dim=-1)


def colours(degree: int, shs: torch.Tensor, means3D: torch.Tensor, campos: torch.Tensor) -> torch.Tensor:
    """Return colours (N, 3) >= 0 of coefficients (N, M, 3) seen from `campos` (3,). M >= (degree + 1)²."""
    directions = torch.nn.functional.normalize(means3D - campos, dim=-1, eps=1e-12)
    values = basis(degree, directions)
    return (torch.einsum("nk,nkc->nc", values, shs[:, : values.shape[1]]) + 0.5).clamp_min(0)
