"""AdamW with layer-wise learning rates, gradient clipping, and the teacher's moving average."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from prostate_ssl.objectives.collective import sum_over_ranks
from prostate_ssl.training.replicas import Replicas
from prostate_ssl.training.schedules import StepSettings

_FIRST_LAYER = ("pos_embed", "patch_embed", "mask_token", "cls_token", "register_tokens")


@dataclass(frozen=True)
class ParameterRule:
    """How the schedules apply to a parameter.

    Attributes:
        lr_multiplier: factor on the learning rate.
        wd_multiplier: factor on the weight decay, 0 or 1.
        is_last_layer: prototypes, which are frozen at first.
    """

    lr_multiplier: float
    wd_multiplier: float
    is_last_layer: bool


def parameter_rule(
    name: str, depth: int, layerwise_decay: float, patch_embed_lr_mult: float
) -> ParameterRule:
    """The published rule for the parameter `name` of a backbone with `depth` blocks (0 for a head).

    Layer-wise decay (Bao et al. 2022): embedding layers are layer 0, block i is layer i + 1, all else is
    layer depth + 1; the factor is decay^(depth + 1 − layer). Biases, norms and LayerScale don't decay.
    """
    layer = depth + 1
    block = re.match(r"blocks\.(\d+)\.", name)
    if depth and name.split(".")[0] in _FIRST_LAYER:
        layer = 0
    elif depth and block:
        layer = int(block[1]) + 1
    lr = layerwise_decay ** (depth + 1 - layer)
    if "patch_embed" in name:
        lr *= patch_embed_lr_mult
    decays = not (name.endswith(".bias") or "norm" in name or "gamma" in name)
    return ParameterRule(lr, float(decays), "last_layer" in name)


def parameter_groups(student: nn.ModuleDict, cfg: DictConfig) -> list[dict[str, Any]]:
    """Parameters of the student, grouped by module and rule: one kernel cannot update shards and replicas."""
    groups: dict[tuple[str, ParameterRule], list[nn.Parameter]] = {}
    for part, module in student.items():
        depth = getattr(module, "n_blocks", 0)
        for name, parameter in module.named_parameters():
            rule = parameter_rule(name, depth, cfg.optim.layerwise_decay, cfg.optim.patch_embed_lr_mult)
            groups.setdefault((part, rule), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr_multiplier": rule.lr_multiplier,
            "wd_multiplier": rule.wd_multiplier,
            "is_last_layer": rule.is_last_layer,
        }
        for (_, rule), parameters in groups.items()
    ]


def build_optimizer(
    student: nn.ModuleDict, cfg: DictConfig, replicas: Replicas | None = None
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over what this rank updates, one fused kernel a group on GPUs."""
    on_gpu = next(student.parameters()).is_cuda
    groups = parameter_groups(student, cfg)
    if replicas is not None:
        groups = [group | {"params": replicas.shares(group["params"])} for group in groups]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=(cfg.optim.adamw_beta1, cfg.optim.adamw_beta2),
        fused=on_gpu,
        foreach=None if on_gpu else True,
    )


def apply_settings(optimizer: torch.optim.Optimizer, settings: StepSettings) -> None:
    """Put the scheduled learning rates and weight decays of an iteration into the optimiser."""
    for group in optimizer.param_groups:
        lr = settings.last_layer_lr if group["is_last_layer"] else settings.lr
        group["lr"] = lr * group["lr_multiplier"]
        group["weight_decay"] = settings.weight_decay * group["wd_multiplier"]


def clip_gradients(
    student: nn.ModuleDict, limit: float | None, replicas: Replicas | None = None
) -> dict[str, torch.Tensor]:
    """Scale each submodule's gradients to a norm of at most `limit`; None or 0 only measures.

    Returns:
        Norm before clipping, per submodule, 0 where none learns; scalars on the device.
    """
    mine: dict[str, list[nn.Parameter]] = {}
    norms: dict[str, torch.Tensor] = {}
    for name, module in student.items():
        parameters = list(module.parameters())
        updated = parameters if replicas is None else replicas.shares(parameters)
        mine[name] = [p for p in updated if p.grad is not None]
        gradients = [p.grad for p in mine[name] if p.grad is not None]
        # PyTorch's norm of nothing lies on the CPU, and to bring it here would make the host wait.
        norms[name] = get_total_norm(gradients) if gradients else torch.zeros((), device=parameters[0].device)
    if replicas is not None:
        names = [name for name in student if name in replicas.modules]
        squares = sum_over_ranks(torch.stack([norms[name] for name in names]).square())
        norms |= dict(zip(names, squares.sqrt().unbind(), strict=True))
    for name, parameters in mine.items():
        if limit and parameters:
            clip_grads_with_norm_(parameters, limit, norms[name])
    return {name: n.full_tensor() if isinstance(n, DTensor) else n for name, n in norms.items()}


def local_tensors(parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The part of each parameter that lies on this rank."""
    return [p.to_local() if hasattr(p, "to_local") else p for p in parameters]


@torch.no_grad()
def update_teacher(student: nn.Module, teacher: nn.Module, momentum: float) -> None:
    """θ_t ← m θ_t + (1 − m) θ_s, in one fused call over this rank's shards."""
    for module in (*teacher.modules(), *student.modules()):
        # Without a backward pass (the teacher, a frozen student) nothing else frees gathered weights.
        if isinstance(module, FSDPModule):
            module.reshard()
    targets, sources = local_tensors(teacher.parameters()), local_tensors(student.parameters())
    torch._foreach_lerp_(targets, sources, 1.0 - momentum)
