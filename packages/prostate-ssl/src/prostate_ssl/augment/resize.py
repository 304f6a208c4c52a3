"""Antialiased bicubic resizing of a batch of windows, each with its own place and size.

Resampling along one axis is a matrix product; the matrix depends on the window. One batched product for the
columns and one for the rows therefore resize every window of a batch at once. The weights are those of
`torch.nn.functional.interpolate(mode="bicubic", antialias=True, align_corners=False)`: Keys' cubic (1981)
with a = -0.5, stretched by the scale where the image shrinks, cut at the window's border and normalised.
"""

from __future__ import annotations

import torch

_A = -0.5
_SUPPORT = 2.0


def _keys_cubic(x: torch.Tensor) -> torch.Tensor:
    x = x.abs()
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1.0
    far = ((x - 5.0) * x + 8.0) * x * _A - 4.0 * _A
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))


def bicubic_weights(length: torch.Tensor, width: int, size: int) -> torch.Tensor:
    """Weight matrices that resize the first `length` of `width` pixels to `size` pixels.

    Args:
        length: (n,) pixels that count, 1 ≤ length ≤ width.
        width: pixels that a window has room for.
        size: pixels of the result.

    Returns:
        (n, size, width) float32; rows sum to 1, columns beyond `length` are 0.
    """
    length = length.to(torch.float32)
    scale = (length / size)[:, None]
    stretch = scale.clamp(min=1.0)
    centre = scale * (torch.arange(size, device=length.device, dtype=torch.float32) + 0.5)
    first = (centre - _SUPPORT * stretch + 0.5).trunc().clamp(min=0)[..., None]
    last = torch.minimum((centre + _SUPPORT * stretch + 0.5).trunc(), length[:, None])[..., None]
    # Some ten of a row's numbers are not zero: those are computed, and laid into zeros.
    taps = min(width, int(2 * _SUPPORT * max(1.0, width / size)) + 2)
    pixel = first + torch.arange(taps, device=length.device, dtype=torch.float32)
    weights = _keys_cubic((pixel - centre[..., None] + 0.5) / stretch[..., None]) * (pixel < last)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    matrix = torch.zeros(length.shape[0], size, width, device=length.device)
    return matrix.scatter_add_(2, pixel.to(torch.int64).clamp(max=width - 1), weights)


def resize_windows(
    planes: torch.Tensor,
    plane_index: torch.Tensor,
    box: torch.Tensor,
    flip: torch.Tensor,
    room: tuple[int, int],
    size: int,
) -> torch.Tensor:
    """Cut a window from a plane for each of n crops, mirror it where asked, resize it to a square.

    Args:
        planes: (B, C, H, W) float, any precision.
        plane_index: (n,) int64 into B.
        box: (n, 4) int64 top, left, height, width; inside the plane, no larger than `room`.
        flip: (n,) bool, left–right.
        room: upper bound of (height, width) over the boxes; fixes the shapes, whatever the boxes.
        size: side of the result.

    Returns:
        (n, C, size, size) float32, not clamped: bicubic overshoots.
    """
    top, left, height, width = box.unbind(dim=1)
    down = bicubic_weights(height, room[0], size)
    across = bicubic_weights(width, room[1], size)
    across = torch.where(flip[:, None, None], across.flip(1), across)
    if planes.device.type == "cpu":
        # Without a GPU it pays to cut each window to its own size: a quarter of the arithmetic.
        return _resize_each(planes, plane_index, box, down, across)
    rows = (top[:, None] + torch.arange(room[0], device=box.device)).clamp(max=planes.shape[2] - 1)
    columns = (left[:, None] + torch.arange(room[1], device=box.device)).clamp(max=planes.shape[3] - 1)
    channels = torch.arange(planes.shape[1], device=box.device)
    windows = planes[
        plane_index[:, None, None, None], channels[None, :, None, None], rows[:, None, :, None],
        columns[:, None, None, :],
    ].to(torch.float32)  # fmt: skip
    return down[:, None] @ (windows @ across[:, None].transpose(2, 3))


def _resize_each(
    planes: torch.Tensor,
    plane_index: torch.Tensor,
    box: torch.Tensor,
    down: torch.Tensor,
    across: torch.Tensor,
) -> torch.Tensor:
    size = down.shape[1]
    resized = torch.empty(box.shape[0], planes.shape[1], size, size)
    for row, (plane, (top, left, height, width)) in enumerate(
        zip(plane_index.tolist(), box.tolist(), strict=True)
    ):
        window = planes[plane, :, top : top + height, left : left + width].to(torch.float32)
        resized[row] = down[row, :, :height] @ (window @ across[row, :, :width].t())
    return resized


def resize_window(image: torch.Tensor, size: int) -> torch.Tensor:
    """Resize one image (C, h, w) to (C, size, size) with the same weights."""
    return torch.nn.functional.interpolate(
        image[None], size=(size, size), mode="bicubic", antialias=True, align_corners=False
    )[0]
