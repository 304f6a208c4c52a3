"""The camera of one view, and the constants that the method fixes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

TILE = 16  # pixels along a side of the squares that the image is cut into
NEAR = 0.2  # a Gaussian whose centre is nearer than this in view space, or behind, is left out
LOW_PASS = 0.3  # pixels², added to the projected variances: no splat is thinner than about a pixel
GUARD_BAND = 1.3  # the projection is linearised no further out than this times the field of view
MIN_ALPHA = 1.0 / 255.0  # less than this is not drawn
MAX_ALPHA = 0.99  # no splat hides all that lies behind
MIN_TRANSMITTANCE = 1e-4  # a pixel is finished before the light that passes falls below this
MIN_COMPENSATION = 0.000025  # lower bound of the ratio of determinants under antialiasing


@dataclass(frozen=True)
class Camera:
    """Where the scene is seen from. Matrices act on row vectors: view = [x y z 1] @ viewmatrix.

    viewmatrix, projmatrix: (4, 4), world to view and world to clip space. campos: (3,), world.
    tanfovx, tanfovy: tangents of half the fields of view. height, width: pixels.
    """

    viewmatrix: torch.Tensor
    projmatrix: torch.Tensor
    campos: torch.Tensor
    tanfovx: float
    tanfovy: float
    height: int
    width: int

    @property
    def focal(self) -> tuple[float, float]:
        """Focal lengths in pixels (x, y)."""
        return self.width / (2.0 * self.tanfovx), self.height / (2.0 * self.tanfovy)

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles across and down."""
        return -(-self.width // TILE), -(-self.height // TILE)
