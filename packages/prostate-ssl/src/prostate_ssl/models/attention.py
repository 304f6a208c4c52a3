"""Which kernel computes attention, decided from outside the model.

- `sdpa`: PyTorch's fused attention in the precision of its inputs.
- `flex`: FlexAttention (Dong et al. 2024), compiled; in fp32 its products run in TF32.
- `tf32`: fp32 in and out; the products run on fused half-precision kernels, with TF32's precision.

PyTorch's fused attention has no TF32 kernel. TF32 rounds the factors of a product to 10 bits of mantissa
and adds in fp32; fp16 has the same 10 bits and its kernels add in fp32 too. What fp16 lacks is range, and
attention lets us give it that: the backward pass is linear in the incoming gradient, so a power of two,
which rounds nothing, brings the gradient into range before and out of it after.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from prostate_ssl.models.layers import Attention, AttentionKernel, fused_attention

KERNELS = ("sdpa", "flex", "tf32")
_TARGET = 256.0  # largest scaled gradient: far from fp16's 65,504, and small ones stay normal numbers


@cache
def flex_kernel() -> AttentionKernel:
    """FlexAttention, compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(qkv: torch.Tensor) -> torch.Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return compiled(q, k, v).transpose(1, 2)

    return attend


def power_of_two_scale(x: torch.Tensor, target: float = _TARGET) -> torch.Tensor:
    """A power of two that brings the largest |x| just below `target`; 1 for zeros and non-finite values."""
    exponent = torch.floor(torch.log2(target / x.abs().amax()))
    return torch.where(exponent.isfinite(), torch.exp2(exponent.clamp(-100, 100)), torch.ones_like(exponent))


def _prefers_cudnn(x: torch.Tensor) -> bool:
    return torch.backends.cuda.cudnn_sdp_enabled() and torch.cuda.get_device_capability(x.device) >= (9, 0)


def _by_head(x: torch.Tensor) -> torch.Tensor:
    """(B, T, heads, d) ↔ (B, heads, T, d), a view."""
    return x.transpose(1, 2)


@torch.library.custom_op("prostate_ssl::tf32_attention", mutates_args=())
def tf32_attention(qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """softmax(q kᵀ / √d) v in fp32 on a GPU.

    Args:
        qkv: (B, T, 3, heads, d) float32, |values| below 65,504; larger ones become infinite, and the
            training stops at the NaN that follows.

    Returns:
        The result (B, T, heads, d) float32; then what the backward pass needs: qkv and the result in fp16,
        and the logarithms of the softmax sums (B, heads, T) float32.
    """
    half = qkv.half()
    q, k, v = half.permute(2, 0, 3, 1, 4).unbind(0)
    if _prefers_cudnn(qkv):
        found = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)
    else:
        found = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)
    out = _by_head(found[0]).contiguous()
    return out.float(), half, out, found[1].reshape(q.shape[:3])


@tf32_attention.register_fake
def _(qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, tokens, _, heads, width = qkv.shape
    out = qkv.new_empty((batch, tokens, heads, width))
    half = torch.empty_like(qkv, dtype=torch.float16)
    return out, half, torch.empty_like(out, dtype=torch.float16), qkv.new_empty((batch, heads, tokens))


@torch.library.custom_op("prostate_ssl::tf32_attention_backward", mutates_args=())
def tf32_attention_backward(
    grad: torch.Tensor, qkv: torch.Tensor, out: torch.Tensor, log_sum: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, (B, T, heads, d) fp16 each, for the scaled fp16 gradient of the result."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    tokens, device = qkv.shape[1], qkv.device
    # Without dropout the kernels read no random state, but they want tensors for it.
    if _prefers_cudnn(qkv):
        state = torch.zeros((), dtype=torch.int64, device=device)
        grads = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            _by_head(grad), q, k, v, _by_head(out), log_sum.unsqueeze(-1), state, state.clone(),
            None, None, None, tokens, tokens, 0.0, False,
        )  # fmt: skip
    else:
        state = torch.zeros(2, dtype=torch.uint64, device=device)
        unused = torch.zeros((), dtype=torch.uint64, device=device)
        grads = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            _by_head(grad),
            q,
            k,
            v,
            _by_head(out),
            log_sum,
            None,
            None,
            tokens,
            tokens,
            0.0,
            False,
            state,
            unused,
        )
    dq, dk, dv = (_by_head(g).contiguous() for g in grads[:3])
    return dq, dk, dv


@tf32_attention_backward.register_fake
def _(
    grad: torch.Tensor, qkv: torch.Tensor, out: torch.Tensor, log_sum: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(out), torch.empty_like(out), torch.empty_like(out)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, grad: torch.Tensor, *_unused: Any) -> torch.Tensor:
    # Scaling and unscaling are ordinary operations, which the compiler fuses with their neighbours.
    scale = power_of_two_scale(grad)
    halves = tf32_attention_backward((grad * scale).half().contiguous(), *ctx.saved_tensors)
    return torch.stack(halves, dim=2).float() / scale


tf32_attention.register_autograd(_backward, setup_context=_setup_context)


def tf32_kernel(qkv: torch.Tensor) -> torch.Tensor:
    """`tf32_attention` for fp32 on a GPU; anything else goes to PyTorch's fused attention."""
    if qkv.is_cuda and qkv.dtype == torch.float32:
        result: torch.Tensor = tf32_attention(qkv)[0]
        return result
    return fused_attention(qkv)


def use_kernel(model: nn.Module, name: str) -> None:
    """Put the kernel `name` (of `KERNELS`) into every attention layer of `model`."""
    makers: dict[str, Callable[[], AttentionKernel]] = {
        "sdpa": lambda: fused_attention,
        "flex": flex_kernel,
        "tf32": lambda: tf32_kernel,
    }
    kernel = makers[name]()
    for module in model.modules():
        if isinstance(module, Attention):
            module.kernel = kernel
