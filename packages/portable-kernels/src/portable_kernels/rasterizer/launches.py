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
MAX_PAIRS = 2**30 - 1  # (tile, Gaussian) pairs that the sort can count
FORWARD_PIXELS = 2  # pixels a thread draws
BACKWARD_PIXELS = 4
WORD = 4  # bytes of a sorting key

PROJECT = KernelSource("rasterizer_project.cu")
SORT = KernelSource("rasterizer_sort.cu")


def blend_source(pixels: int, ordered: bool = False) -> KernelSource:
    """Return the blending kernels: pixels a thread draws, and whether sums are kept in order."""
    return KernelSource("rasterizer_blend.cu", (("PIXELS", str(pixels)), ("ORDERED", str(int(ordered)))))


def sources() -> list[KernelSource]:
    """Every translation unit that the rasteriser may compile."""
    blends = {blend_source(FORWARD_PIXELS), blend_source(BACKWARD_PIXELS), blend_source(8, True)}
    return [PROJECT, SORT, *sorted(blends, key=str)]


@cache
def _module(source: KernelSource) -> KernelModule:
    return KernelModule(source)


# How many pairs the last image on each device needed: the next one's lists are made a little larger than
# that, so that the device need not wait until the host knows the number. Too small is noticed, and mended,
# before returning.
_pairs_of_last_image: dict[int, int] = {}


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


def _zeros(words: int, device: torch.device) -> torch.Tensor:
    return torch.zeros(words, dtype=torch.int32, device=device)


def _words(words: int, device: torch.device) -> torch.Tensor:
    return torch.empty(words, dtype=torch.int32, device=device)


def _radix_sort(
    keys: torch.Tensor, values: torch.Tensor | None, total: torch.Tensor | None, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort int32 keys, taken as unsigned, by their lowest `bits`; stable → keys, values.

    `values` None: the positions. `total`: how many of them count, on the device; None: all. Overwrites its
    arguments.
    """
    module, device, room = _module(SORT), keys.device, len(keys)
    passes, blocks = -(-bits // 8), -(-room // SORT_ITEMS)
    zeroed = _zeros(passes * (blocks * 256 + 256 + 1), device)
    counts = zeroed.data_ptr()
    status, tickets = counts + WORD * passes * 256, counts + WORD * passes * (256 + blocks * 256)
    module.launch("count_digits", min(blocks, 512), BLOCK, [keys, total, room, passes, counts], device)
    spare_keys, spare_values = _words(room, device), _words(room, device)
    first_values, values = values, _words(room, device) if values is None else values
    for step in range(passes):
        source = first_values if step == 0 else values
        args = [keys, source, spare_keys, spare_values, total, room, 8 * step, counts + WORD * 256 * step]
        args += [status + WORD * blocks * 256 * step, tickets + WORD * step]
        module.launch("sort_by_digit", blocks, BLOCK, args, device)
        keys, spare_keys, values, spare_values = spare_keys, keys, spare_values, values
    return keys, values


def _draw(
    state: tuple[torch.Tensor, ...],
    order: torch.Tensor,
    room: int,
    camera: Camera,
    background: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Pair splats with tiles, sort and blend → colour, inverse depth, pairs (room,), ranges, passing,
    last_drawn.
    """
    splats, extents, radii, tile_counts, total = state
    device, (across, down) = splats.device, camera.tiles
    ranges = _zeros(2 * across * down, device)
    gaussians = _words(room, device)
    if room:
        tiles = _words(room, device)
        blocks = launch_grid(len(order), BLOCK)
        zeroed = _zeros(blocks + 1, device)
        args = [order, tile_counts, splats, extents, radii, len(order), camera.width, camera.height, room]
        args += [tiles, gaussians, zeroed, zeroed.data_ptr() + WORD * blocks]
        _module(SORT).launch("list_tiles", blocks, BLOCK, args, device)
        tiles, gaussians = _radix_sort(tiles, gaussians, total, (across * down).bit_length())
        args = [tiles, total, room, across * down, ranges]
        _module(SORT).launch("tile_ranges", launch_grid(room, BLOCK), BLOCK, args, device)
    shape = (camera.height, camera.width)
    colour = torch.empty((3, *shape), dtype=torch.float32, device=device)
    inverse_depth = torch.empty((1, *shape), dtype=torch.float32, device=device)
    passing = torch.empty(shape, dtype=torch.float32, device=device)
    last_drawn = torch.empty(shape, dtype=torch.int32, device=device)
    args = [splats, gaussians, ranges, background, camera.width, camera.height]
    args += [colour, inverse_depth, passing, last_drawn]
    _module(blend_source(FORWARD_PIXELS)).launch(
        "blend", (across, down, 1), BLOCK // FORWARD_PIXELS, args, device
    )
    return colour, inverse_depth, gaussians, ranges, passing, last_drawn


def rasterize(
    scene: Gaussians,
    camera: Camera,
    background: torch.Tensor,
    degree: int,
    modifier: float,
    antialiasing: bool,
) -> tuple[torch.Tensor, ...]:
    """Render → colour, radii, inverse depth, and for the way back splats, tile_counts, gaussians, ranges,
    passing, last_drawn. All tensors contiguous float32 of one CUDA device.
    """
    device, N = scene.means3D.device, len(scene.means3D)
    splats = torch.empty((N, 12), dtype=torch.float32, device=device)
    extents = torch.empty((N, 2), dtype=torch.float32, device=device)
    radii, keys, tile_counts = _words(N, device), _words(N, device), _words(N, device)
    total = torch.zeros(1, dtype=torch.int64, device=device)
    state = (splats, extents, radii, tile_counts, total)
    if N == 0:
        colour, inverse_depth, *rest = _draw(state, keys, 0, camera, background)
        return colour, radii, inverse_depth, splats, tile_counts, *rest
    args = _scene_arguments(scene, camera, degree, modifier, antialiasing)
    args += [splats, extents, radii, keys, tile_counts, total]
    _module(PROJECT).launch("project", launch_grid(N, BLOCK), BLOCK, args, device)
    pairs_on_host = torch.empty(1, dtype=torch.int64, pin_memory=True)
    pairs_on_host.copy_(total, non_blocking=True)
    counted = torch.cuda.Event()
    counted.record(torch.cuda.current_stream(device))

    _, order = _radix_sort(keys, None, None, 32)
    room = _pairs_of_last_image.get(device.index or 0, 0) * 5 // 4
    if room:
        drawn = _draw(state, order, room, camera, background)
    counted.synchronize()
    pairs = int(pairs_on_host.item())
    if pairs > MAX_PAIRS:
        raise RuntimeError(
            f"{pairs} pairs of Gaussians and tiles are more than one image can have ({MAX_PAIRS})"
        )
    if pairs > room or not room:
        drawn = _draw(state, order, pairs, camera, background)
    _pairs_of_last_image[device.index or 0] = pairs
    colour, inverse_depth, gaussians, *rest = drawn
    return colour, radii, inverse_depth, splats, tile_counts, gaussians[:pairs], *rest


def _moments(
    saved: tuple[torch.Tensor, ...],
    grad_colour: torch.Tensor,
    grad_inverse_depth: torch.Tensor | None,
    camera: Camera,
    background: torch.Tensor,
) -> torch.Tensor:
    """What `blend_backward` adds up for each Gaussian (N, 12); in order if torch asks for deterministic
    algorithms.
    """
    splats, _, gaussians, ranges, passing, last_drawn = saved
    device, N = splats.device, len(splats)
    ordered = torch.are_deterministic_algorithms_enabled()
    pixels = 8 if ordered else BACKWARD_PIXELS
    sums = torch.zeros((len(gaussians) if ordered else N, 12), dtype=torch.float32, device=device)
    if len(gaussians) == 0:
        return torch.zeros((N, 12), dtype=torch.float32, device=device) if ordered else sums
    args: list[Any] = [
        splats,
        gaussians,
        ranges,
        background,
        passing,
        last_drawn,
        grad_colour,
        grad_inverse_depth,
    ]
    args += [camera.width, camera.height, sums]
    _module(blend_source(pixels, ordered)).launch(
        "blend_backward", (*camera.tiles, 1), BLOCK // pixels, args, device
    )
    if not ordered:
        return sums
    by_gaussian, order = torch.sort(gaussians, stable=True)
    starts = torch.searchsorted(by_gaussian, torch.arange(N + 1, dtype=torch.int32, device=device))
    moments = torch.empty((N, 12), dtype=torch.float32, device=device)
    args = [sums, order, starts, N, moments]
    _module(blend_source(pixels, ordered)).launch(
        "sum_in_order", launch_grid(12 * N, BLOCK), BLOCK, args, device
    )
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
    tile_counts = saved[1]
    args = _scene_arguments(scene, camera, degree, modifier, antialiasing)
    args += [tile_counts, moments, grads.means3D, grads.means2D, grads.means2D.shape[1], grads.opacities]
    args += [_given(g) for g in (grads.shs, grads.colors, grads.scales, grads.rotations, grads.cov3D)]
    _module(PROJECT).launch("project_backward", launch_grid(N, BACKWARD_BLOCK), BACKWARD_BLOCK, args, device)
    return grads


def mark_visible(means3D: torch.Tensor, viewmatrix: torch.Tensor) -> torch.Tensor:
    """Return (N,) bool: the centre lies in front of the near plane."""
    visible = torch.empty(len(means3D), dtype=torch.bool, device=means3D.device)
    if len(means3D):
        args = [means3D, viewmatrix, len(means3D), visible]
        _module(PROJECT).launch("mark_visible", launch_grid(len(means3D), BLOCK), BLOCK, args, means3D.device)
    return visible
