"""The rasteriser by kernels, on a CUDA device, float32."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from portable_kernels.compiler import KernelModule, KernelSource, launch_grid
from portable_kernels.rasterizer.camera import Camera
from portable_kernels.rasterizer.reference import Gaussians

BLOCK = 256
BACKWARD_BLOCK = 128
SORT_ITEMS = 256 * 12  # that one block of a sorting pass takes
MAX_GAUSSIANS = 2**30 - 1  # that a sorting pass can count
MAX_PAIRS = 2**30 - 1  # (tile, Gaussian) pairs that the sort can count
PIXELS = 4  # that a thread draws; of 1, 2, 4 and 8 the quickest on an H200, both ways
WORD = 4  # bytes of a sorting key

PROJECT = KernelSource("rasterizer_project.cu")
PROJECT_BACKWARD = KernelSource("rasterizer_project_backward.cu")
SORT = KernelSource("rasterizer_sort.cu")


def blend_source(pixels: int, ordered: bool = False) -> KernelSource:
    """Return the blending kernels: pixels a thread draws, and whether sums are kept in order."""
    return KernelSource("rasterizer_blend.cu", (("PIXELS", str(pixels)), ("ORDERED", str(int(ordered)))))


def sources() -> list[KernelSource]:
    """Every translation unit that the rasteriser may compile."""
    return [PROJECT, PROJECT_BACKWARD, SORT, blend_source(PIXELS), blend_source(8, True)]


@cache
def _module(source: KernelSource) -> KernelModule:
    return KernelModule(source)


# How many pairs the last image on each device needed: the next one's lists are made a little larger than
# that, so that the device need not wait until the host knows the number. Too small is noticed, and mended,
# before returning.
_pairs_of_last_image: dict[int, int] = {}


class _Words:
    """Device memory handed out in runs of 32-bit words, as addresses: allocations cost host time."""

    def __init__(self, words: int, device: torch.device, zero: bool = False) -> None:
        make = torch.zeros if zero else torch.empty
        self.tensor = make(words, dtype=torch.int32, device=device)
        self._next = self.tensor.data_ptr()

    def take(self, words: int) -> int:
        """Return the address of the next `words` words."""
        address = self._next
        self._next += WORD * words
        return address


def _given(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the tensor, or None (a null pointer) for an empty one, which stands for «not given»."""
    return tensor if tensor.numel() else None


def _scene_arguments(
    scene: Gaussians, camera: Camera, degree: int, modifier: float, antialiasing: bool
) -> list[Any]:
    """Arguments that `project` and `project_backward` begin with."""
    return [
        *(scene.means3D, scene.opacities, _given(scene.shs), _given(scene.colors), _given(scene.scales)),
        *(_given(scene.rotations), _given(scene.cov3D), camera.viewmatrix, camera.projmatrix, camera.campos),
        *(len(scene.means3D), scene.shs.shape[1] if scene.shs.numel() else 0, degree),
        *(camera.width, camera.height, camera.tanfovx, camera.tanfovy, float(modifier), int(antialiasing)),
    ]


def _sort_passes(bits: int) -> int:
    return -(-bits // 8)


def _sort_zeros(room: int, bits: int) -> int:
    """Words that must be zero for `_radix_sort`: digit counts, status of each block, a ticket, for each
    pass.
    """
    return _sort_passes(bits) * (256 + -(-room // SORT_ITEMS) * 256 + 1)


def _radix_sort(
    buffers: tuple[int, int, int, int],
    positions: bool,
    total: int,
    room: int,
    bits: int,
    zeroed: _Words,
    device: torch.device,
) -> None:
    """Sort unsigned words by their lowest `bits`, stably; values go with them.

    `buffers`: addresses of keys, values, and as much room for each besides; an even number of passes ends in
    the first two, an odd one in the others. `positions`: the values are 0, 1, 2, …. `total`: address of how
    many there are, 0 for `room`.
    """
    keys, values, other_keys, other_values = buffers
    module = _module(SORT)
    passes, blocks = _sort_passes(bits), -(-room // SORT_ITEMS)
    counts = zeroed.take(passes * 256)
    module.launch("count_digits", min(blocks, 512), BLOCK, [keys, total, room, passes, counts], device)
    for step in range(passes):
        source = 0 if positions and step == 0 else values
        args = [keys, source, other_keys, other_values, total, room, 8 * step, counts + WORD * 256 * step]
        args += [zeroed.take(blocks * 256), zeroed.take(1)]
        module.launch("sort_by_digit", blocks, BLOCK, args, device)
        keys, other_keys, values, other_values = other_keys, keys, other_values, values


def _list_zeros(N: int, room: int, camera: Camera) -> int:
    """Words that must be zero for `_list_by_tile`."""
    return launch_grid(N, BLOCK) + 1 + _sort_zeros(room, _tile_bits(camera))


def _tile_bits(camera: Camera) -> int:
    return (camera.tiles[0] * camera.tiles[1]).bit_length()  # one number more than there are tiles


def _list_by_tile(
    geometry: torch.Tensor, projected: dict[str, int], N: int, room: int, camera: Camera, zeroed: _Words
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pair Gaussians with tiles and sort the pairs → Gaussians (room,), and where each tile's begin (tiles +
    1,).
    """
    device, (across, down) = geometry.device, camera.tiles
    gaussians = torch.empty(room, dtype=torch.int32, device=device)
    starts = torch.empty(across * down + 1, dtype=torch.int32, device=device)
    scratch = _Words(3 * room, device)
    bits, blocks = _tile_bits(camera), launch_grid(N, BLOCK)
    first = (scratch.take(room), scratch.take(room))
    second = (scratch.take(room), gaussians.data_ptr())
    if _sort_passes(bits) % 2 == 0:
        first, second = second, first
    args = [
        projected["order"],
        projected["tile_counts"],
        geometry,
        projected["extents"],
        projected["radii"],
        N,
    ]
    args += [camera.width, camera.height, room, *first, zeroed.take(blocks), zeroed.take(1)]
    module = _module(SORT)
    module.launch("list_tiles", blocks, BLOCK, args, device)
    _radix_sort((*first, *second), False, projected["total"], room, bits, zeroed, device)
    tiles = first[0] if _sort_passes(bits) % 2 == 0 else second[0]
    args = [tiles, projected["total"], room, across * down, starts]
    module.launch("tile_starts", launch_grid(room + 1, BLOCK), BLOCK, args, device)
    return gaussians, starts


def _blend(
    geometry: torch.Tensor,
    lists: tuple[torch.Tensor, torch.Tensor],
    camera: Camera,
    background: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Colour (3, H, W), inverse depth (1, H, W), and what the way back needs of each pixel (2, H, W)."""
    device, shape = geometry.device, (camera.height, camera.width)
    colour = torch.empty((3, *shape), dtype=torch.float32, device=device)
    inverse_depth = torch.empty((1, *shape), dtype=torch.float32, device=device)
    pixels = torch.empty((2, *shape), dtype=torch.float32, device=device)
    last_drawn = pixels.data_ptr() + WORD * camera.height * camera.width
    args = [geometry, *lists, background, camera.width, camera.height]
    args += [colour, inverse_depth, pixels, last_drawn]
    block = BLOCK // PIXELS
    _module(blend_source(PIXELS)).launch("blend", (*camera.tiles, 1), block, args, device)
    return colour, inverse_depth, pixels


def rasterize(
    scene: Gaussians,
    camera: Camera,
    background: torch.Tensor,
    degree: int,
    modifier: float,
    antialiasing: bool,
) -> tuple[torch.Tensor, ...]:
    """Render → colour, radii, inverse depth, and for the way back geometry, gaussians, starts, pixels.

    All tensors contiguous float32 of one CUDA device. geometry (13 N,): a splat of 12 numbers for each
    Gaussian, then for each in how many tiles it is drawn.
    """
    device, N = scene.means3D.device, len(scene.means3D)
    if N > MAX_GAUSSIANS:
        raise RuntimeError(f"{N} Gaussians are more than one image can have ({MAX_GAUSSIANS})")
    geometry = torch.empty(13 * N, dtype=torch.float32, device=device)
    radii = torch.empty(N, dtype=torch.int32, device=device)
    if N == 0:
        starts = torch.zeros(camera.tiles[0] * camera.tiles[1] + 1, dtype=torch.int32, device=device)
        lists = (torch.empty_like(radii), starts)
        colour, inverse_depth, pixels = _blend(geometry, lists, camera, background)
        return colour, radii, inverse_depth, geometry, *lists, pixels
    room = min(_pairs_of_last_image.get(device.index or 0, 0) * 5 // 4, MAX_PAIRS)
    scratch = _Words(6 * N, device)
    zeroed = _Words(2 + _sort_zeros(N, 32) + _list_zeros(N, room, camera), device, zero=True)
    projected = {
        "total": zeroed.take(2),
        "extents": scratch.take(2 * N),
        "order": scratch.take(N),
        "radii": radii.data_ptr(),
        "tile_counts": geometry.data_ptr() + WORD * 12 * N,
    }
    keys, spare = scratch.take(N), scratch.take(2 * N)
    args = _scene_arguments(scene, camera, degree, modifier, antialiasing)
    args += [geometry, projected["extents"], radii, keys, projected["tile_counts"], projected["total"]]
    _module(PROJECT).launch("project", launch_grid(N, BLOCK), BLOCK, args, device)
    pairs_on_host = torch.empty(1, dtype=torch.int64, device="cpu", pin_memory=True)
    pairs_on_host.copy_(zeroed.tensor[:2].view(torch.int64), non_blocking=True)
    counted = torch.cuda.Event()
    counted.record(torch.cuda.current_stream(device))

    _radix_sort((keys, projected["order"], spare, spare + WORD * N), True, 0, N, 32, zeroed, device)
    if room:
        lists = _list_by_tile(geometry, projected, N, room, camera, zeroed)
        drawn = _blend(geometry, lists, camera, background)
    counted.synchronize()
    pairs = int(pairs_on_host.item())
    if pairs > MAX_PAIRS:
        raise RuntimeError(
            f"{pairs} pairs of Gaussians and tiles are more than one image can have ({MAX_PAIRS})"
        )
    if pairs > room or not room:
        room = max(pairs, 1)
        more_zeros = _Words(_list_zeros(N, room, camera), device, zero=True)  # `zeroed` still holds the total
        lists = _list_by_tile(geometry, projected, N, room, camera, more_zeros)
        drawn = _blend(geometry, lists, camera, background)
    _pairs_of_last_image[device.index or 0] = pairs
    colour, inverse_depth, pixels = drawn
    return colour, radii, inverse_depth, geometry, lists[0][:pairs], lists[1], pixels


def _moments(
    saved: tuple[torch.Tensor, ...],
    grad_colour: torch.Tensor,
    grad_inverse_depth: torch.Tensor | None,
    camera: Camera,
    background: torch.Tensor,
) -> torch.Tensor:
    """What `blend_backward` adds up for each Gaussian, (N, 12).

    In order, if torch is asked for deterministic algorithms.
    """
    geometry, gaussians, starts, pixels = saved
    device, N = geometry.device, len(geometry) // 13
    ordered = torch.are_deterministic_algorithms_enabled()
    per_thread = 8 if ordered else PIXELS
    sums = torch.zeros((len(gaussians) if ordered else N, 12), dtype=torch.float32, device=device)
    if len(gaussians) == 0:
        return torch.zeros((N, 12), dtype=torch.float32, device=device) if ordered else sums
    last_drawn = pixels.data_ptr() + WORD * camera.height * camera.width
    args: list[Any] = [geometry, gaussians, starts, background, pixels, last_drawn]
    args += [grad_colour, grad_inverse_depth, camera.width, camera.height, sums]
    module = _module(blend_source(per_thread, ordered))
    module.launch("blend_backward", (*camera.tiles, 1), BLOCK // per_thread, args, device)
    if not ordered:
        return sums
    by_gaussian, order = torch.sort(gaussians, stable=True)
    starts_of_gaussians = torch.searchsorted(
        by_gaussian, torch.arange(N + 1, dtype=torch.int32, device=device)
    )
    moments = torch.empty((N, 12), dtype=torch.float32, device=device)
    args = [sums, order, starts_of_gaussians, N, moments]
    module.launch("sum_in_order", launch_grid(12 * N, BLOCK), BLOCK, args, device)
    return moments


def rasterize_backward(
    grad_colour: torch.Tensor,
    grad_inverse_depth: torch.Tensor | None,
    scene: Gaussians,
    camera: Camera,
    background: torch.Tensor,
    degree: int,
    modifier: float,
    antialiasing: bool,
    saved: tuple[torch.Tensor, ...],
) -> Gaussians:
    """Gradients by every tensor of the scene; empty ones for those not given."""
    device, N = scene.means3D.device, len(scene.means3D)
    grads = Gaussians(*(torch.empty_like(t) for t in vars(scene).values()))
    if N == 0:
        return grads
    moments = _moments(saved, grad_colour, grad_inverse_depth, camera, background)
    tile_counts = saved[0].data_ptr() + WORD * 12 * N
    args = _scene_arguments(scene, camera, degree, modifier, antialiasing)
    args += [tile_counts, moments, grads.means3D, grads.means2D, grads.means2D.shape[1], grads.opacities]
    args += [_given(g) for g in (grads.shs, grads.colors, grads.scales, grads.rotations, grads.cov3D)]
    grid = launch_grid(N, BACKWARD_BLOCK)
    _module(PROJECT_BACKWARD).launch("project_backward", grid, BACKWARD_BLOCK, args, device)
    return grads


def mark_visible(means3D: torch.Tensor, viewmatrix: torch.Tensor) -> torch.Tensor:
    """Return (N,) bool: the centre lies in front of the near plane."""
    visible = torch.empty(len(means3D), dtype=torch.bool, device=means3D.device)
    if len(means3D):
        args = [means3D, viewmatrix, len(means3D), visible]
        _module(PROJECT).launch("mark_visible", launch_grid(len(means3D), BLOCK), BLOCK, args, means3D.device)
    return visible
