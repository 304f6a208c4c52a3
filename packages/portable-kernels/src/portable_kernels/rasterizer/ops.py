"""The rasteriser as dispatcher ops: CPU → reference, CUDA → kernels, autograd and shapes registered.

`portable_kernels::rasterize` and `portable_kernels::rasterize_backward`; absent tensors are empty, (0,).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from portable_kernels.rasterizer import launches, reference
from portable_kernels.rasterizer.camera import Camera
from portable_kernels.rasterizer.reference import Gaussians
from portable_kernels.untraced import untraced

_SCENE = (
    "Tensor means3D, Tensor means2D, Tensor opacities, Tensor shs, Tensor colors, Tensor scales, "
    "Tensor rotations, Tensor cov3D"
)
_VIEW = (
    "Tensor background, Tensor viewmatrix, Tensor projmatrix, Tensor campos, float tanfovx, float tanfovy, "
    "int height, int width, int sh_degree, float scale_modifier, bool antialiasing"
)
_SAVED = "Tensor geometry, Tensor gaussians, Tensor starts, Tensor pixels"

_library = torch.library.Library("portable_kernels", "FRAGMENT")
_library.define(
    f"rasterize({_SCENE}, {_VIEW}) -> (Tensor color, Tensor radii, Tensor inverse_depth, {_SAVED})",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    f"rasterize_backward(Tensor grad_color, Tensor? grad_inverse_depth, {_SCENE}, {_VIEW}, {_SAVED}) -> "
    "(Tensor means3D, Tensor means2D, Tensor opacities, Tensor shs, Tensor colors, Tensor scales, "
    "Tensor rotations, Tensor cov3D)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_SCENE_TENSORS = 8
_VIEW_ARGUMENTS = 11
_SAVED_TENSORS = 4


def _unpack(arguments: tuple[Any, ...]) -> tuple[Gaussians, Camera, torch.Tensor, tuple[int, float, bool]]:
    """Scene, camera, background, and (sh_degree, scale_modifier, antialiasing)."""
    scene = Gaussians(*arguments[:_SCENE_TENSORS])
    background, view, projection, campos, tan_x, tan_y, height, width, *options = arguments[_SCENE_TENSORS:]
    camera = Camera(view, projection, campos, tan_x, tan_y, height, width)
    return scene, camera, background, tuple(options)


def _rasterize_cpu(*arguments: Any) -> tuple[torch.Tensor, ...]:
    scene, camera, background, options = _unpack(arguments)
    with torch.no_grad():
        color, radii, inverse_depth = reference.rasterize(scene, camera, background, *options)
    saved = [color.new_empty(0) for _ in range(_SAVED_TENSORS)]  # the way back computes all of it again
    return color.contiguous(), radii, inverse_depth.contiguous(), *saved


def _rasterize_cuda(*arguments: Any) -> tuple[torch.Tensor, ...]:
    scene, camera, background, options = _unpack(arguments)
    with torch.cuda.device(scene.means3D.device):
        return launches.rasterize(scene, camera, background, *options)


def _rasterize_backward_cpu(
    grad_color: torch.Tensor, grad_inverse_depth: torch.Tensor | None, *arguments: Any
) -> tuple[torch.Tensor, ...]:
    inputs = [t.detach().requires_grad_(t.numel() > 0) for t in arguments[:_SCENE_TENSORS]]
    rest = arguments[_SCENE_TENSORS : _SCENE_TENSORS + _VIEW_ARGUMENTS]
    scene, camera, background, options = _unpack((*inputs, *rest))
    with torch.enable_grad():
        color, _, inverse_depth = reference.rasterize(scene, camera, background, *options)
        loss = (color * grad_color).sum()
        if grad_inverse_depth is not None:
            loss = loss + (inverse_depth * grad_inverse_depth).sum()
    wanted = [t for t in inputs if t.requires_grad]
    found: list[torch.Tensor | None] = [None] * len(wanted)
    if loss.requires_grad:
        found = [*torch.autograd.grad(loss, wanted, allow_unused=True)]
    grads = iter(found)
    return tuple(
        torch.zeros_like(t) if not t.requires_grad or (grad := next(grads)) is None else grad.contiguous()
        for t in inputs
    )


def _rasterize_backward_cuda(
    grad_color: torch.Tensor, grad_inverse_depth: torch.Tensor | None, *arguments: Any
) -> tuple[torch.Tensor, ...]:
    end = _SCENE_TENSORS + _VIEW_ARGUMENTS
    scene, camera, background, options = _unpack(arguments[:end])
    if grad_inverse_depth is not None:
        grad_inverse_depth = grad_inverse_depth.contiguous()
    with torch.cuda.device(scene.means3D.device):
        grads = launches.rasterize_backward(
            grad_color.contiguous(), grad_inverse_depth, scene, camera, background, *options, arguments[end:]
        )
    return tuple(vars(grads).values())


def _rasterize_shapes(*arguments: Any) -> tuple[torch.Tensor, ...]:
    scene, camera, _, _ = _unpack(arguments)
    means, (across, down) = scene.means3D, camera.tiles
    N, H, W = means.shape[0], camera.height, camera.width
    color, inverse_depth, radii = means.new_empty((3, H, W)), means.new_empty((1, H, W)), _int32(means, N)
    if means.device.type == "cpu":
        return color, radii, inverse_depth, *(means.new_empty(0) for _ in range(_SAVED_TENSORS))
    pairs = torch.library.get_ctx().new_dynamic_size()
    saved = (means.new_empty(13 * N), _int32(means, pairs), _int32(means, across * down + 1))
    return color, radii, inverse_depth, *saved, means.new_empty((2, H, W))


def _int32(like: torch.Tensor, *shape: int | torch.SymInt) -> torch.Tensor:
    return like.new_empty(shape, dtype=torch.int32)


def _rasterize_backward_shapes(
    grad_color: torch.Tensor, grad_inverse_depth: torch.Tensor | None, *arguments: Any
) -> tuple[torch.Tensor, ...]:
    return tuple(torch.empty_like(t) for t in arguments[:_SCENE_TENSORS])


class _Rasterize(torch.autograd.Function):
    """Autograd of the op: `torch.library.register_autograd` would take a fifth of a millisecond a call."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[torch.Tensor, ...]:
        output = _below_autograd(*arguments)
        tensors = [*arguments[:_SCENE_TENSORS], *arguments[_SCENE_TENSORS : _SCENE_TENSORS + 4]]
        ctx.save_for_backward(*tensors, *output[3:])
        ctx.options = arguments[_SCENE_TENSORS + 4 :]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1], *output[3:])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        grad_color, grad_inverse_depth = grads[0], grads[2]
        nothing = (None,) * _VIEW_ARGUMENTS
        if grad_color is None and grad_inverse_depth is None:
            return (None,) * _SCENE_TENSORS + nothing
        kept = ctx.saved_tensors  # once: checkpointing gives them out a single time
        tensors, saved = kept[:-_SAVED_TENSORS], kept[-_SAVED_TENSORS:]
        if grad_color is None:
            grad_color = tensors[0].new_zeros((3, *ctx.options[2:4]))
        found = torch.ops.portable_kernels.rasterize_backward(
            grad_color, grad_inverse_depth, *tensors, *ctx.options, *saved
        )
        needed = ctx.needs_input_grad[:_SCENE_TENSORS]
        return tuple(g if need else None for g, need in zip(found, needed, strict=True)) + nothing


def _below_autograd(*arguments: Any) -> tuple[torch.Tensor, ...]:
    with torch._C._AutoDispatchBelowAutograd():
        output: tuple[torch.Tensor, ...] = torch.ops.portable_kernels.rasterize(*arguments)
    return output


def _rasterize_autograd(*arguments: Any) -> tuple[torch.Tensor, ...]:
    if torch.is_grad_enabled() and any(t.requires_grad for t in arguments[:_SCENE_TENSORS]):
        output: tuple[torch.Tensor, ...] = _Rasterize.apply(*arguments)
        return output
    return _below_autograd(*arguments)


_library.impl("rasterize", _rasterize_cpu, "CPU")
_library.impl("rasterize", untraced(_rasterize_cuda), "CUDA")
_library.impl("rasterize", _rasterize_autograd, "Autograd")
_library.impl("rasterize_backward", _rasterize_backward_cpu, "CPU")
_library.impl("rasterize_backward", _rasterize_backward_cuda, "CUDA")
torch.library.register_fake("portable_kernels::rasterize", _rasterize_shapes, lib=_library)
torch.library.register_fake("portable_kernels::rasterize_backward", _rasterize_backward_shapes, lib=_library)
