"""Structural similarity as dispatcher ops: CPU → reference, CUDA → kernels, autograd and shapes too."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from portable_kernels.ssim import launches, reference

_library = torch.library.Library("portable_kernels", "FRAGMENT")
_library.define(
    "ssim(Tensor img1, Tensor img2, bool valid, bool train) -> (Tensor mean, Tensor partials)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "ssim_backward(Tensor grad, Tensor img1, Tensor img2, Tensor partials, bool valid) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _ssim_cpu(
    img1: torch.Tensor, img2: torch.Tensor, valid: bool, train: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():  # the way back computes it again
        return reference.mean_similarity(img1, img2, valid), img1.new_empty(0)


def _ssim_cuda(
    img1: torch.Tensor, img2: torch.Tensor, valid: bool, train: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.cuda.device(img1.device):
        return launches.ssim(img1, img2, valid, train)


def _ssim_shapes(
    img1: torch.Tensor, img2: torch.Tensor, valid: bool, train: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    kept = train and img1.device.type != "cpu"
    return img1.new_empty(()), img1.new_empty((3, *img1.shape) if kept else 0)


def _ssim_backward_cpu(
    grad: torch.Tensor, img1: torch.Tensor, img2: torch.Tensor, partials: torch.Tensor, valid: bool
) -> torch.Tensor:
    leaf = img1.detach().requires_grad_()
    with torch.enable_grad():
        mean = reference.mean_similarity(leaf, img2.detach(), valid)
    if launches.counted_pixels(img1, valid) == 0:
        return torch.zeros_like(img1)
    return torch.autograd.grad(mean, leaf, grad)[0]


def _ssim_backward_cuda(
    grad: torch.Tensor, img1: torch.Tensor, img2: torch.Tensor, partials: torch.Tensor, valid: bool
) -> torch.Tensor:
    with torch.cuda.device(img1.device):
        return launches.ssim_backward(grad.to(img1.dtype).contiguous(), img1, img2, partials, valid)


class _Ssim(torch.autograd.Function):
    """Autograd of the op: `torch.library.register_autograd` would take a fifth of a millisecond a call."""

    @staticmethod
    def forward(
        ctx: Any, img1: torch.Tensor, img2: torch.Tensor, valid: bool, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mean, partials = _below_autograd(img1, img2, valid, train)
        ctx.valid = valid
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(partials)
        ctx.save_for_backward(img1, img2, partials)
        return mean, partials

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        if grads[0] is None or not ctx.needs_input_grad[0]:
            return None, None, None, None
        found = torch.ops.portable_kernels.ssim_backward(grads[0], *ctx.saved_tensors, ctx.valid)
        return found, None, None, None


def _below_autograd(
    img1: torch.Tensor, img2: torch.Tensor, valid: bool, train: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch._C._AutoDispatchBelowAutograd():
        output: tuple[torch.Tensor, torch.Tensor] = torch.ops.portable_kernels.ssim(img1, img2, valid, train)
    return output


def _ssim_autograd(
    img1: torch.Tensor, img2: torch.Tensor, valid: bool, train: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    if train and img1.requires_grad and torch.is_grad_enabled():
        output: tuple[torch.Tensor, torch.Tensor] = _Ssim.apply(img1, img2, valid, train)
        return output
    return _below_autograd(img1, img2, valid, train)


_library.impl("ssim", _ssim_cpu, "CPU")
_library.impl("ssim", _ssim_cuda, "CUDA")
_library.impl("ssim", _ssim_autograd, "Autograd")
_library.impl("ssim_backward", _ssim_backward_cpu, "CPU")
_library.impl("ssim_backward", _ssim_backward_cuda, "CUDA")
torch.library.register_fake("portable_kernels::ssim", _ssim_shapes, lib=_library)
torch.library.register_fake(
    "portable_kernels::ssim_backward", lambda grad, img1, *_: torch.empty_like(img1), lib=_library
)
