"""Loading published weights: our own checkpoints, DINOv2's files and Hugging Face's layout of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prostate_ssl.errors import ProstateError
from prostate_ssl.files import why_unreadable

_HUGGING_FACE = (
    (r"^(dinov2|dinov2_with_registers)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
)
_QKV = re.compile(r"^(blocks\.\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$")
_IGNORED_MISSING = ("mri_seq_embed.weight",)  # no DINOv2 checkpoint has modalities
_COMPUTES = ("blocks.", "patch_embed.", "norm.")  # with some of these missing it is another function


@dataclass(frozen=True)
class WeightsReport:
    """Which keys of a checkpoint went where.

    Attributes:
        matched: keys of the model that were loaded.
        missing: keys of the model that the file lacks; they keep their initial values.
        unused: keys of the file that the model has no place for.
        resized: keys whose shape was adapted (positions interpolated, modality rows extended).
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    resized: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} keys matched"]
        for name in ("resized", "missing", "unused"):
            keys = getattr(self, name)
            if keys:
                shown = ", ".join(keys[:4]) + (" …" if len(keys) > 4 else "")
                parts.append(f"{len(keys)} {name} ({shown})")
        return ", ".join(parts)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pth`/`.pt` (read without running pickles) or `.safetensors` file, nesting undone.

    Raises:
        ProstateError: no such file, unreadable, or not a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ProstateError(f"No checkpoint at {path}. Check the path of the weights.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise ProstateError(f"{path} cannot be read as weights: {why_unreadable(error)}") from error
    for key in ("teacher", "model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not any(isinstance(v, torch.Tensor) for v in content.values()):
        raise ProstateError(f"{path} holds no state dict.")
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def backbone_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Any published layout → our names: prefixes off, Hugging Face names translated, q, k and v joined."""
    if any(name.startswith("teacher.backbone.") for name in tensors):
        tensors = {n: t for n, t in tensors.items() if n.startswith("teacher.backbone.")}
    stripped = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("teacher.").removeprefix("module.")
        if not name.startswith(("dino_head.", "ibot_head.")):
            stripped[re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name.removeprefix("backbone."))] = tensor
    if any(".attention.attention.query." in name for name in stripped):
        stripped = _from_hugging_face(stripped)
    if "mask_token" in stripped and stripped["mask_token"].ndim == 3:
        stripped["mask_token"] = stripped["mask_token"][0]
    return stripped


def _from_hugging_face(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed: dict[str, torch.Tensor] = {}
    joined: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _HUGGING_FACE:
            name = re.sub(pattern, replacement, name)
        part = _QKV.match(name)
        if part:
            joined.setdefault(f"{part[1]}.attn.qkv.{part[3]}", {})[part[2]] = tensor
        else:
            renamed[name] = tensor
    for name, parts in joined.items():
        renamed[name] = torch.cat([parts["query"], parts["key"], parts["value"]])
    return renamed


def load_pretrained_weights(model: nn.Module, path: str | Path) -> WeightsReport:
    """Fill `model` from a checkpoint file as far as it fits, and say what fitted.

    Positions of another image size are interpolated, and a modality table with fewer rows fills the first
    rows. Anything else of another shape, and any part of a block that only one side has, means another
    architecture. Register tokens may be missing or unused; the report says so.

    Raises:
        ProstateError: the file cannot be read; nothing in it fits; it belongs to another architecture.
    """
    found = backbone_tensors(read_tensors(path))
    own = model.state_dict()
    loaded: dict[str, torch.Tensor] = {}
    resized, wrong = [], []
    for name in own.keys() & found.keys():
        tensor, target = found[name], own[name]
        if tensor.shape != target.shape:
            adapted = _adapt(name, tensor, target)
            if adapted is None:
                wrong.append(f"{name} is {tuple(tensor.shape)} there and {tuple(target.shape)} here")
                continue
            resized.append(name)
            tensor = adapted
        loaded[name] = tensor
    blocks_there = {n.split(".")[1] for n in found if n.startswith("blocks.")}
    blocks_here = {n.split(".")[1] for n in own if n.startswith("blocks.")}
    if not wrong and loaded and blocks_there != blocks_here:
        wrong.append(f"{len(blocks_there)} blocks there and {len(blocks_here)} here")
    if not wrong and loaded:
        wrong = _halves(own.keys() - loaded.keys(), found.keys() - loaded.keys())
    if wrong or not loaded:
        what = "; ".join(wrong[:3]) if wrong else "no key in common"
        raise ProstateError(
            f"{path} belongs to another architecture ({what}). Choose the student.arch, patch size, "
            "ffn_layer, layerscale and biases that it was trained with."
        )
    model.load_state_dict(loaded, strict=False)
    return WeightsReport(
        matched=tuple(sorted(loaded)),
        missing=tuple(sorted(own.keys() - loaded.keys() - set(_IGNORED_MISSING))),
        unused=tuple(sorted(found.keys() - loaded.keys())),
        resized=tuple(sorted(resized)),
    )


def _halves(missing: Iterable[str], unused: Iterable[str]) -> list[str]:
    """Parts of the network that only one side has, such as the other kind of FFN."""
    lacks = sorted(name for name in missing if name.startswith(_COMPUTES))
    extra = sorted(name for name in unused if name.startswith(_COMPUTES))
    return [f"{name} is only here" for name in lacks[:1]] + [f"{name} is only there" for name in extra[:1]]


def _adapt(name: str, tensor: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
    if name == "pos_embed" and tensor.shape[-1] == target.shape[-1]:
        sides = [round((t.shape[1] - 1) ** 0.5) for t in (tensor, target)]
        if sides[0] ** 2 != tensor.shape[1] - 1:
            return None
        grid = tensor[:, 1:].float().view(1, sides[0], sides[0], -1).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, size=(sides[1], sides[1]), mode="bicubic")
        return torch.cat([tensor[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    if name == "mri_seq_embed.weight" and tensor.shape[1] == target.shape[1]:
        rows = min(len(tensor), len(target))
        return torch.cat([tensor[:rows].to(target), target[rows:]])
    return None
