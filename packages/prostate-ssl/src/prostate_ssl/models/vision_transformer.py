"""A vision transformer that reads any set of MRI modalities as one sequence of tokens.

DINOv2's ViT (Oquab et al. 2023) with the modality handling of MM-DINOv2 (Scholz et al. 2025): each
modality passes the same patch embedding, gets its own positional encoding and a learned modality
embedding of unit norm; all of them share one CLS token. State dicts have the published layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from prostate_ssl.models.layers import Block, Mlp, SwiGLU

PUBLISHED_MODALITIES = ("ax_t2wi", "ax_adc", "ax_dwi", "seg")


@dataclass(frozen=True)
class VitShape:
    """What distinguishes the sizes: width, depth and heads."""

    embed_dim: int
    depth: int
    num_heads: int


def modality_table(modalities: Sequence[str]) -> tuple[str, ...]:
    """Rows of the modality embedding: the four published ones, then the new names in their order."""
    return PUBLISHED_MODALITIES + tuple(dict.fromkeys(m for m in modalities if m not in PUBLISHED_MODALITIES))


class PatchEmbed(nn.Module):
    """Linear projection of P×P patches; its weight is the (D, 3, P, P) kernel of DINOv2."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Grey images (B, H, W) → (B, N, D), row-major.

        The published model repeats the grey slice three times before an RGB kernel. Adding the kernel's
        three channels first gives the same sum with a third of the work.
        """
        p = self.patch_size
        batch, height, width = x.shape
        if height % p or width % p:
            raise ValueError(f"images of {height}×{width} pixels are no multiple of the {p}-pixel patch")
        patches = x.view(batch, height // p, p, width // p, p).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)
        return F.linear(patches, self.proj.weight.sum(1).flatten(1), self.proj.bias)


class MedicalVisionTransformer(nn.Module):
    """ViT over M modalities of one slice.

    Args:
        shape: width, depth, heads.
        patch_size: P, pixels.
        img_size: pixels; fixes the length of `pos_embed`, 1 + (img_size // P)²; other sizes interpolate.
        mri_sequences: names of the input channels in their order; unpublished names get rows of their own.
        use_mri_seq_embed: add the modality embedding (its norm is 1) to the patch tokens.
        img_wise_pos_embed: every modality is encoded like an image of its own; False stacks the
            modalities in space, as one image M times as high.
        ffn_layer: "mlp", "swiglu" (or "swiglufused", the same function).
        layerscale: initial value of LayerScale; None or 0 for none.
        num_register_tokens: registers after the CLS token (Darcet et al. 2023).
        interpolate_antialias, interpolate_offset: how positions are interpolated; DINOv2's models with
            registers were trained with antialiasing and without the offset, the others the other way round.
    """

    mask_token: nn.Parameter

    def __init__(
        self,
        shape: VitShape,
        *,
        patch_size: int = 14,
        img_size: int = 224,
        mri_sequences: Sequence[str] = PUBLISHED_MODALITIES[:3],
        use_mri_seq_embed: bool = True,
        img_wise_pos_embed: bool = True,
        ffn_layer: str = "mlp",
        layerscale: float | None = 1e-5,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        ffn_bias: bool = True,
        num_register_tokens: int = 0,
        interpolate_antialias: bool = False,
        interpolate_offset: float = 0.1,
    ) -> None:
        super().__init__()
        dim = shape.embed_dim
        self.embed_dim, self.num_heads, self.n_blocks = dim, shape.num_heads, shape.depth
        self.patch_size, self.img_size = patch_size, img_size
        self.mri_sequences = tuple(mri_sequences)
        self.modalities = modality_table(mri_sequences)
        self.use_mri_seq_embed, self.img_wise_pos_embed = use_mri_seq_embed, img_wise_pos_embed
        self.interpolate_antialias, self.interpolate_offset = interpolate_antialias, interpolate_offset
        self.activation_checkpointing = False
        self._interpolations: dict[tuple[int, int, torch.device], torch.Tensor] = {}

        self.patch_embed = PatchEmbed(patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (img_size // patch_size) ** 2, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, num_register_tokens, dim)) if num_register_tokens else None
        )
        self.mri_seq_embed = nn.Embedding(len(self.modalities), dim).requires_grad_(use_mri_seq_embed)
        ffn_class = {"mlp": Mlp, "swiglu": SwiGLU, "swiglufused": SwiGLU}[ffn_layer]
        self.blocks = nn.ModuleList(
            Block(
                dim,
                shape.num_heads,
                ffn_class(dim, 4 * dim, ffn_bias),
                layerscale=layerscale,
                qkv_bias=qkv_bias,
                proj_bias=proj_bias,
            )
            for _ in range(shape.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """DINOv2's: truncated normal (σ 0.02) for linear layers and positions, zeros for biases."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        """Positional encoding for a grid of rows × columns patches, (1, 1 + rows·columns, D).

        Bicubic; DINOv2's offset in the scale (`interpolate_offset`) shifts the sampling points a little, and
        without it published weights would see other positions than they were trained with.
        """
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if rows == side and columns == side:
            return self.pos_embed
        down = self._bicubic(side, rows)
        across = self._bicubic(side, columns)
        grid = self.pos_embed[0, 1:].float().view(side, side, -1)
        # Two small products: PyTorch's bicubic kernel takes 0.7 ms for this table on a large GPU.
        with torch.autocast(grid.device.type, enabled=False):
            patches = torch.einsum("rs,sce,tc->rte", down, grid, across).flatten(0, 1)
        return torch.cat([self.pos_embed[:, :1], patches.to(self.pos_embed.dtype)[None]], dim=1)

    def _bicubic(self, source: int, target: int) -> torch.Tensor:
        """The interpolation of one axis as a matrix (target, source), kept for the next call."""
        key = (source, target, self.pos_embed.device)
        if key not in self._interpolations:
            # What PyTorch's own interpolation makes of unit vectors; so it is the same by construction.
            # Two columns wide: PyTorch's antialiasing gives something else for a width of one.
            units = torch.eye(source, dtype=torch.float64).view(1, source, source, 1).repeat(1, 1, 1, 2)
            scale = ((target + self.interpolate_offset) / source, 1.0)
            how = {"scale_factor": scale} if self.interpolate_offset else {"size": (target, 2)}
            grid = F.interpolate(units, mode="bicubic", antialias=self.interpolate_antialias, **how)
            matrix = grid[0, :, :, 0].T
            self._interpolations[key] = matrix.float().to(self.pos_embed.device)
        return self._interpolations[key]

    def modality_rows(self, count: int, modalities: Sequence[str] | None) -> list[int]:
        """Embedding rows of the given modalities.

        Default: the first `count` of the configured ones, and one channel more is the gland mask.
        """
        configured = self.mri_sequences
        if count == len(configured) + 1 and "seg" not in configured:
            configured += ("seg",)
        names = configured[:count] if modalities is None else tuple(modalities)
        if len(names) != count:
            raise ValueError(f"{count} input channels, but {len(names)} modality names: {', '.join(names)}")
        unknown = [name for name in names if name not in self.modalities]
        if unknown:
            raise ValueError(
                f"unknown modality {', '.join(unknown)}; this model knows {', '.join(self.modalities)}"
            )
        return [self.modalities.index(name) for name in names]

    def embed(
        self,
        x: torch.Tensor,
        masks: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        modalities: Sequence[str] | None = None,
    ) -> torch.Tensor:
        """(B, M, H, W) → (B, 1 + registers + M·N, D): CLS token, registers, patches modality by modality."""
        batch, count, height, width = x.shape
        rows, columns = height // self.patch_size, width // self.patch_size
        tokens = self.patch_embed(x.flatten(0, 1)).view(batch, count, rows * columns, -1)
        hidden = _hidden_patches(masks, present, tokens)
        if hidden is not None:
            tokens = torch.where(hidden.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        if self.img_wise_pos_embed:
            positions = self.positions(rows, columns)
            tokens = tokens + positions[:, None, 1:]
        else:
            positions = self.positions(count * rows, columns)
            tokens = tokens + positions[:, 1:].view(1, count, rows * columns, -1)
        if self.use_mri_seq_embed:
            # Rows by slicing: an index tensor would be copied from the host in the middle of a CUDA graph.
            rows_of = [self.mri_seq_embed.weight[row] for row in self.modality_rows(count, modalities)]
            tokens = tokens + F.normalize(torch.stack(rows_of), dim=-1)[None, :, None]
        cls = (self.cls_token + positions[:, :1]).expand(batch, -1, -1)
        parts = [cls, tokens.flatten(1, 2)]
        if self.register_tokens is not None:
            parts.insert(1, self.register_tokens.expand(batch, -1, -1))
        return torch.cat(parts, dim=1)

    def forward_features(
        self,
        x: torch.Tensor,
        masks: torch.Tensor | None = None,
        *,
        present: torch.Tensor | None = None,
        modalities: Sequence[str] | None = None,
        drop_scales: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Normalised tokens of a batch of slices.

        Args:
            x: (B, M, H, W) float, H and W multiples of the patch.
            masks: bool, True where the mask token stands for the patch: (B, M, N), (B, M·N), or (B, N)
                for the same mask in every modality.
            present: (B, M) bool; a modality that is absent is masked as a whole.
            modalities: names of the M channels; default the configured ones in their order, then the mask.
            drop_scales: (depth, 2, B) stochastic-depth factors, or None (evaluation).
            rows: (R,) positions in the flattened (B · (1 + registers + M·N)) tokens (`token_rows`): only
                these are returned, which saves most of the last block.

        Returns:
            With `rows`: x_norm_rows (R, D). Without: x_norm_clstoken (B, D), x_norm_regtokens (B, R, D),
            x_norm_patchtokens (B, M·N, D), x_prenorm (B, 1 + R + M·N, D).

        Raises:
            ValueError: sizes that are no multiple of the patch; unknown modality names.
        """
        tokens = self.embed(x, masks, present, modalities)
        for index, block in enumerate(self.blocks):
            scales = None if drop_scales is None else drop_scales[index]
            last = rows if index + 1 == self.n_blocks else None
            if self.activation_checkpointing and torch.is_grad_enabled():
                # A block draws nothing, so there is no random state to keep.
                tokens = checkpoint(
                    block, tokens, scales, last, use_reentrant=False, preserve_rng_state=False
                )
            else:
                tokens = block(tokens, scales, last)
        normed = self.norm(tokens)
        return {"x_norm_rows": normed} if rows is not None else self._named(normed, tokens)

    def token_rows(self, crops: int, patches: int, index: torch.Tensor | None) -> torch.Tensor:
        """Positions of all CLS tokens, then of the patches `index`, in the flattened tokens of a batch.

        Args:
            crops: B.
            patches: M·N patches of a crop.
            index: (L,) positions in the flattened (B · M·N) patches, or None.

        Returns:
            (B + L,) int64.
        """
        first = 1 + self.num_register_tokens
        cls = torch.arange(crops, device=self.cls_token.device) * (first + patches)
        if index is None:
            return cls
        return torch.cat([cls, index + (index // patches + 1) * first])

    def _named(self, normed: torch.Tensor, prenorm: torch.Tensor) -> dict[str, torch.Tensor]:
        first = 1 + self.num_register_tokens
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1:first],
            "x_norm_patchtokens": normed[:, first:],
            "x_prenorm": prenorm,
        }

    @property
    def num_register_tokens(self) -> int:
        return 0 if self.register_tokens is None else self.register_tokens.shape[1]

    def forward(self, x: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """Patch features (B, M·N, D) of slices (B, M, H, W), as the published interface documents it."""
        return self.forward_features(x, masks)["x_norm_patchtokens"]

    def get_intermediate_layers(
        self, x: torch.Tensor, n: int | Sequence[int] = 1, *, reshape: bool = False, norm: bool = True
    ) -> tuple[torch.Tensor, ...]:
        """Patch tokens after the last `n` blocks (or the listed ones): (B, M·N, D) each.

        With `reshape` each is (B, M, D, H/P, W/P), for decoders.
        """
        wanted = list(range(self.n_blocks - n, self.n_blocks)) if isinstance(n, int) else list(n)
        tokens, outputs = self.embed(x), []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in wanted:
                outputs.append(self.norm(tokens) if norm else tokens)
        patches = [out[:, 1 + self.num_register_tokens :] for out in outputs]
        if not reshape:
            return tuple(patches)
        batch, count, height, width = x.shape
        size = (batch, count, height // self.patch_size, width // self.patch_size, self.embed_dim)
        return tuple(patch.reshape(size).permute(0, 1, 4, 2, 3) for patch in patches)

    def last_attention(self, x: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """Attention of the CLS token over the patches in the last block, (B, heads, M, H/P, W/P).

        Args:
            x: (B, M, H, W).
            present: (B, M) bool; a modality that is absent is masked as a whole, as in `forward_features`.
        """
        tokens = self.embed(x, present=present)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        last: Block = self.blocks[-1]  # type: ignore[assignment]
        weights = last.attn.weights(last.norm1(tokens))[:, :, 0, 1 + self.num_register_tokens :]
        batch, count, height, width = x.shape
        return weights.reshape(batch, -1, count, height // self.patch_size, width // self.patch_size)


def _hidden_patches(
    masks: torch.Tensor | None, present: torch.Tensor | None, tokens: torch.Tensor
) -> torch.Tensor | None:
    """(B, M, N) bool of patches that the mask token replaces, or None."""
    batch, count, patches, _ = tokens.shape
    hidden = None
    if masks is not None:
        same_for_all = masks.ndim == 2 and masks.shape[1] == patches and count > 1
        hidden = masks[:, None] if same_for_all else masks.view(batch, -1, patches)
        hidden = hidden.expand(batch, count, patches)
    if present is not None:
        absent = ~present[:, :, None].expand(batch, count, patches)
        hidden = absent if hidden is None else hidden | absent
    return hidden
