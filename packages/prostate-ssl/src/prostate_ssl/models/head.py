"""The projection head that scores tokens against prototypes."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class PrototypeLayer(nn.Module):
    """Prototypes w_k = g_k v_k / ‖v_k‖ (Salimans & Kingma 2016); parameters (K, 1) and (K, bottleneck)."""

    def __init__(self, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(prototypes, 1))
        self.weight_v = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.kaiming_uniform_(self.weight_v, a=5**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=-1))
        return scores


class DINOHead(nn.Module):
    """MLP → unit sphere → prototype scores (Caron et al. 2021, section 3.1 and appendix C).

    Args:
        in_dim: width of the tokens.
        out_dim: K, number of prototypes.
        nlayers: linear layers before the prototypes; one means no hidden layer.
        hidden_dim, bottleneck_dim: widths of the hidden layers and of the sphere.
    """

    def __init__(
        self, in_dim: int, out_dim: int, nlayers: int = 3, hidden_dim: int = 2048, bottleneck_dim: int = 256
    ) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (max(nlayers, 1) - 1), bottleneck_dim]
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(pairwise(widths)):
            if index:
                layers.append(nn.GELU())
            layers.append(nn.Linear(before, after))
            nn.init.trunc_normal_(layers[-1].weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
        # A head of one layer is a bare Linear in published checkpoints: keys `mlp.weight`, `mlp.bias`.
        self.mlp = nn.Sequential(*layers) if len(layers) > 1 else layers[0]
        self.last_layer = PrototypeLayer(bottleneck_dim, out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (T, D) → prototype scores (T, K)."""
        scores: torch.Tensor = self.last_layer(F.normalize(self.mlp(x), dim=-1))
        return scores
