"""A plain float64 vision transformer, written from the papers' equations and nothing else of ours.

It reads a state dict in the published layout. Loops instead of fused kernels, the RGB kernel on three equal
channels, attention as a matrix.
"""

from __future__ import annotations

import math

import numpy as np
import torch

State = dict[str, torch.Tensor]


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6) * weight + bias


def gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    if t < 2:
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return 0.0


def bicubic_matrix(source: int, target: int, scale: float) -> np.ndarray:
    """Weights (target, source) of cubic convolution (Keys 1981, a = −0.75) with clamped borders."""
    matrix = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) / scale - 0.5
        base = math.floor(centre)
        for offset in range(-1, 3):
            column = min(max(base + offset, 0), source - 1)
            matrix[row, column] += cubic(centre - (base + offset))
    return matrix


def positions(state: State, rows: int, columns: int) -> torch.Tensor:
    table = state["pos_embed"][0]
    side = round(math.sqrt(len(table) - 1))
    if (rows, columns) == (side, side):
        return table
    grid = table[1:].reshape(side, side, -1).numpy()
    down = bicubic_matrix(side, rows, (rows + 0.1) / side)
    across = bicubic_matrix(side, columns, (columns + 0.1) / side)
    new = np.einsum("rs,scd,tc->rtd", down, grid, across)
    return torch.cat([table[:1], torch.from_numpy(new).reshape(rows * columns, -1)])


def tokens_of(
    state: State,
    x: torch.Tensor,
    patch: int,
    modality_rows: list[int],
    masks: torch.Tensor | None,
    seq_embed: bool,
    image_wise: bool,
) -> torch.Tensor:
    batch, count, height, width = x.shape
    rows, columns = height // patch, width // patch
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    sequences = []
    for case in range(batch):
        parts = []
        for channel in range(count):
            for row in range(rows):
                for column in range(columns):
                    window = x[
                        case, channel, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch
                    ]
                    token = (kernel * window.expand(3, patch, patch)).sum((1, 2, 3)) + bias
                    place = row * columns + column
                    if masks is not None and masks[case, channel, place]:
                        token = state["mask_token"][0]
                    if image_wise:
                        token = token + positions(state, rows, columns)[1 + place]
                    else:
                        token = (
                            token
                            + positions(state, count * rows, columns)[1 + channel * rows * columns + place]
                        )
                    if seq_embed:
                        vector = state["mri_seq_embed.weight"][modality_rows[channel]]
                        token = token + vector / vector.norm()
                    parts.append(token)
        first = state["cls_token"][0, 0] + state["pos_embed"][0, 0]
        registers = list(state["register_tokens"][0]) if "register_tokens" in state else []
        sequences.append(torch.stack([first, *registers, *parts]))
    return torch.stack(sequences)


def attention(state: State, prefix: str, x: torch.Tensor, heads: int) -> torch.Tensor:
    width = x.shape[-1] // heads
    qkv = x @ state[f"{prefix}.qkv.weight"].T + state[f"{prefix}.qkv.bias"]
    q, k, v = qkv.chunk(3, dim=-1)
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
        weights = torch.exp(scores - scores.max(-1, keepdim=True).values)
        outputs.append(weights / weights.sum(-1, keepdim=True) @ v[..., part])
    return torch.cat(outputs, -1) @ state[f"{prefix}.proj.weight"].T + state[f"{prefix}.proj.bias"]


def feed_forward(state: State, prefix: str, x: torch.Tensor) -> torch.Tensor:
    if f"{prefix}.w12.weight" in state:
        both = x @ state[f"{prefix}.w12.weight"].T + state[f"{prefix}.w12.bias"]
        gate, value = both.chunk(2, -1)
        return (gate / (1 + torch.exp(-gate)) * value) @ state[f"{prefix}.w3.weight"].T + state[
            f"{prefix}.w3.bias"
        ]
    hidden = gelu(x @ state[f"{prefix}.fc1.weight"].T + state[f"{prefix}.fc1.bias"])
    return hidden @ state[f"{prefix}.fc2.weight"].T + state[f"{prefix}.fc2.bias"]


def forward(
    state: State,
    x: torch.Tensor,
    *,
    patch: int,
    heads: int,
    modality_rows: list[int],
    masks: torch.Tensor | None = None,
    seq_embed: bool = True,
    image_wise: bool = True,
) -> torch.Tensor:
    """All normalised tokens, (B, 1 + registers + M·N, D), in float64."""
    state = {name: tensor.double() for name, tensor in state.items()}
    x = tokens_of(state, x.double(), patch, modality_rows, masks, seq_embed, image_wise)
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for i in range(depth):
        b = f"blocks.{i}"
        normed = layer_norm(x, state[f"{b}.norm1.weight"], state[f"{b}.norm1.bias"])
        x = x + attention(state, f"{b}.attn", normed, heads) * state.get(f"{b}.ls1.gamma", torch.ones(()))
        normed = layer_norm(x, state[f"{b}.norm2.weight"], state[f"{b}.norm2.bias"])
        x = x + feed_forward(state, f"{b}.mlp", normed) * state.get(f"{b}.ls2.gamma", torch.ones(()))
    return layer_norm(x, state["norm.weight"], state["norm.bias"])
