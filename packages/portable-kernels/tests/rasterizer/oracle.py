"""The image of a scene by one loop over pixels and one over Gaussians, straight from the papers' formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def _rotation(q: np.ndarray) -> np.ndarray:
    """The matrix of a unit quaternion, as v → q v q*."""
    w, u = q[0], q[1:]
    cross = np.array([[0, -u[2], u[1]], [u[2], 0, -u[0]], [-u[1], u[0], 0]])
    return (w * w - u @ u) * np.eye(3) + 2 * np.outer(u, u) + 2 * w * cross


def _splat(mean: np.ndarray, covariance: np.ndarray, opacity: float, view: Any) -> dict[str, Any] | None:
    """EWA projection of one Gaussian, or None where it is not drawn."""
    V = np.asarray(view.viewmatrix, dtype=np.float64).T
    P = np.asarray(view.projmatrix, dtype=np.float64).T
    H, W = view.image_height, view.image_width
    t = (V @ np.append(mean, 1.0))[:3]
    if not t[2] > 0.2:
        return None
    clip = P @ np.append(mean, 1.0)
    centre = np.array([((clip[k] / (clip[3] + 1e-7) + 1) * size - 1) / 2 for k, size in enumerate((W, H))])
    focal = np.array([W / (2 * view.tanfovx), H / (2 * view.tanfovy)])
    slope = [
        np.clip(t[k] / t[2], -1.3 * tan, 1.3 * tan) for k, tan in enumerate((view.tanfovx, view.tanfovy))
    ]
    J = np.array(
        [[focal[0] / t[2], 0, -focal[0] * slope[0] / t[2]], [0, focal[1] / t[2], -focal[1] * slope[1] / t[2]]]
    )
    sharp = J @ V[:3, :3] @ covariance @ V[:3, :3].T @ J.T
    blurred = sharp + 0.3 * np.eye(2)
    if getattr(view, "antialiasing", False):
        opacity *= math.sqrt(max(0.000025, np.linalg.det(sharp) / np.linalg.det(blurred)))
    middle = np.trace(blurred) / 2
    radius = math.ceil(3 * math.sqrt(middle + math.sqrt(max(0.1, middle**2 - np.linalg.det(blurred)))))
    tiles = np.array([-(-W // 16), -(-H // 16)])
    low = np.clip(np.floor((centre - radius) / 16), 0, tiles)
    high = np.clip(np.floor((centre + radius + 15) / 16), 0, tiles)
    if (high <= low).any():
        return None
    return {
        "centre": centre,
        "inverse": np.linalg.inv(blurred),
        "opacity": opacity,
        "depth": t[2],
        "radius": radius,
        "low": low,
        "high": high,
    }


def _harmonics(degree: int, d: np.ndarray) -> np.ndarray:
    """Real harmonics from associated Legendre functions, in the stored order: by l, then m from -l to l."""
    x, y, z = d
    phi, values = math.atan2(y, x), []
    legendre = {
        (0, 0): 1.0,
        (1, 0): z,
        (1, 1): -math.sqrt(1 - z * z),
        (2, 0): (3 * z * z - 1) / 2,
        (2, 1): -3 * z * math.sqrt(1 - z * z),
        (2, 2): 3 * (1 - z * z),
        (3, 0): (5 * z**3 - 3 * z) / 2,
        (3, 1): -1.5 * (5 * z * z - 1) * math.sqrt(1 - z * z),
        (3, 2): 15 * z * (1 - z * z),
        (3, 3): -15 * (1 - z * z) ** 1.5,
    }
    for degree_l in range(degree + 1):
        for m in range(-degree_l, degree_l + 1):
            a = abs(m)
            norm = math.sqrt(
                (2 * degree_l + 1)
                / (4 * math.pi)
                * math.factorial(degree_l - a)
                / math.factorial(degree_l + a)
            )
            turn = 1.0 if m == 0 else math.sqrt(2) * (math.cos(a * phi) if m > 0 else math.sin(a * phi))
            values.append(norm * turn * legendre[degree_l, a])
    return np.array(values)


def render(arguments: dict[str, Any], view: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour (3, H, W), radii (N,), inverse depth (H, W)."""
    scene = {name: t.detach().numpy().astype(np.float64) for name, t in arguments.items()}
    N, H, W = len(scene["means3D"]), view.image_height, view.image_width
    splats, radii = [], np.zeros(N, dtype=int)
    for i in range(N):
        if "cov3D_precomp" in scene:
            xx, xy, xz, yy, yz, zz = scene["cov3D_precomp"][i]
            covariance = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        else:
            R = _rotation(scene["rotations"][i])
            covariance = R @ np.diag((view.scale_modifier * scene["scales"][i]) ** 2) @ R.T
        splat = _splat(scene["means3D"][i], covariance, float(scene["opacities"][i, 0]), view)
        if splat is None:
            continue
        if "shs" in scene:
            d = scene["means3D"][i] - view.campos.numpy()
            Y = _harmonics(view.sh_degree, d / np.linalg.norm(d))
            colour = np.maximum(Y @ scene["shs"][i, : len(Y)] + 0.5, 0)
        else:
            colour = scene["colors_precomp"][i]
        radii[i] = splat["radius"]
        splats.append({**splat, "colour": colour})
    splats.sort(key=lambda s: s["depth"])
    image, inverse_depth = np.zeros((3, H, W)), np.zeros((H, W))
    for y in range(H):
        for x in range(W):
            light = 1.0
            for s in splats:
                tile = np.array([x // 16, y // 16])
                if (tile < s["low"]).any() or (tile >= s["high"]).any():
                    continue
                d = s["centre"] - np.array([x, y])
                alpha = min(0.99, s["opacity"] * math.exp(-0.5 * d @ s["inverse"] @ d))
                if alpha < 1 / 255:
                    continue
                if light * (1 - alpha) < 1e-4:
                    break
                image[:, y, x] += light * alpha * s["colour"]
                inverse_depth[y, x] += light * alpha / s["depth"]
                light *= 1 - alpha
            image[:, y, x] += light * view.bg.numpy()
    return image, radii, inverse_depth
