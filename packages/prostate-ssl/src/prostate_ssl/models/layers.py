"""The parts of a transformer block, with the parameter names of published DINOv2 checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

AttentionKernel = Callable[[torch.Tensor], torch.Tensor]


def fused_attention(qkv: torch.Tensor) -> torch.Tensor:
    """PyTorch's fused softmax(q kᵀ / √d) v: (B, T, 3, heads, d) → (B, T, heads, d)."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, eq. 1) with one projection for q, k and v.

    `kernel` computes softmax(q kᵀ / √d) v, (B, T, 3, heads, d) → (B, T, heads, d); it is PyTorch's fused
    attention unless `models.attention.use_kernel` puts another in its place.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, proj_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.kernel: AttentionKernel = fused_attention

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) → (B, T, 3, heads, D / heads): queries, keys, values."""
        batch, tokens, dim = x.shape
        qkv: torch.Tensor = self.qkv(x)
        return qkv.view(batch, tokens, 3, self.num_heads, dim // self.num_heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) → (B, T, D)."""
        mixed: torch.Tensor = self.proj(self.kernel(self.project(x)).flatten(2))
        return mixed

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """The attention matrix itself, (B, heads, T, T), rows summing to one; for pictures."""
        q, k, _ = self.project(x).permute(2, 0, 3, 1, 4).unbind(0)
        scores: torch.Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return scores.softmax(-1)


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwiGLU(nn.Module):
    """silu(x W₁) ∘ (x W₂) W₃ (Shazeer 2020); 2/3 of the hidden width, rounded up to a multiple of 8."""

    def __init__(self, dim: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        width = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * width, bias=bias)
        self.w3 = nn.Linear(width, dim, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: torch.Tensor = self.w3(F.silu(gate) * value)
        return out


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al. 2021, «Going deeper with image transformers»)."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(init)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Block(nn.Module):
    """x ← x + s₁ LS(Attn(LN(x))); x ← x + s₂ LS(FFN(LN(x))): a pre-norm block with stochastic depth.

    The factors s₁ and s₂ come from outside (`training.randomness.drop_path_scales`), one per sample:
    0 drops the branch and 1/(1-p) keeps it. The block itself draws no random numbers.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ffn: nn.Module,
        *,
        layerscale: float | None,
        qkv_bias: bool = True,
        proj_bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, qkv_bias, proj_bias)
        self.ls1 = LayerScale(dim, layerscale) if layerscale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ffn
        self.ls2 = LayerScale(dim, layerscale) if layerscale else nn.Identity()

    def forward(
        self, x: torch.Tensor, scales: torch.Tensor | None = None, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One block, of all tokens or of some.

        Args:
            x: (B, T, D).
            scales: (2, B) factors of the two branches, or None for ones.
            rows: (R,) positions in the flattened (B·T) tokens whose results are wanted; they attend to all
                tokens, but only they pass the FFN.

        Returns:
            (B, T, D), or (R, D) with `rows`.
        """
        attended: torch.Tensor = self.ls1(self.attn(self.norm1(x)))
        x = x + (attended if scales is None else attended * scales[0, :, None, None])
        factor = None if scales is None else scales[1, :, None, None]
        if rows is not None:
            tokens = x.shape[1]
            x = x.flatten(0, 1).index_select(0, rows)
            factor = None if scales is None else scales[1].index_select(0, rows // tokens).unsqueeze(-1)
        mixed: torch.Tensor = self.ls2(self.mlp(self.norm2(x)))
        return x + (mixed if factor is None else mixed * factor)
