"""Student and teacher, and the losses between them for one batch of crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from prostate_ssl.batch import CropBatch
from prostate_ssl.models.build import build_backbone
from prostate_ssl.models.head import DINOHead
from prostate_ssl.models.vision_transformer import MedicalVisionTransformer
from prostate_ssl.objectives import (
    MaskedTokens,
    RunningCenter,
    dino_loss,
    ibot_patch_loss,
    koleo_loss,
    masked_token_bound,
    select_masked,
    semi_supervised_loss,
    sinkhorn_knopp,
)
from prostate_ssl.training.replicas import Replicas

GLOBAL_CROPS = 2
Losses = dict[str, torch.Tensor]
NetworkCalls = dict[str, Callable[..., Any]]


@dataclass(frozen=True)
class Targets:
    """What the teacher says about a batch.

    Attributes:
        cls: (2, B, K); row g holds the distribution of the *other* global crop, which crop g must predict.
        patches: (L, K) distributions at the masked patches, or None without iBOT.
        masked: which patches these are, or None.
    """

    cls: torch.Tensor
    patches: torch.Tensor | None
    masked: MaskedTokens | None


@dataclass(frozen=True)
class StepInputs:
    """What a step needs beside the crops.

    Attributes:
        temperature: the teacher's; a scalar tensor on the device, where steps are recorded (`gradients`).
        global_scales, local_scales: stochastic-depth factors, (depth, 2, crops) or None.
        labels: (B,) int64 class of each case, −1 without; or None.
        frozen: the backbone does not learn in this step.
    """

    temperature: float | torch.Tensor
    global_scales: torch.Tensor | None = None
    local_scales: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    frozen: bool = False


def build_networks(cfg: DictConfig) -> nn.ModuleDict:
    """Backbone and heads of one network: `backbone`, `dino_head` and, if separate, `ibot_head`."""
    parts: dict[str, nn.Module] = {"backbone": build_backbone(cfg)}
    width: int = parts["backbone"].embed_dim  # type: ignore[assignment]
    heads = {"dino_head": cfg.dino}
    if cfg.ibot.loss_weight > 0 and cfg.ibot.separate_head:
        heads["ibot_head"] = cfg.ibot
    for name, head in heads.items():
        parts[name] = DINOHead(
            width, head.head_n_prototypes, head.head_nlayers, head.head_hidden_dim, head.head_bottleneck_dim
        )
    return nn.ModuleDict(parts)


def network_calls(network: nn.ModuleDict) -> NetworkCalls:
    """How each part of a network is called: the backbone for all its tokens, a head for its scores."""
    calls: NetworkCalls = dict(network.items())
    calls["backbone"] = network["backbone"].forward_features  # type: ignore[assignment]
    return calls


def _with_all_channels(batch: CropBatch) -> CropBatch:
    """The batch with `present` and `masks` for every channel: a gland mask is there and not masked."""
    more = batch.global_crops.shape[1] - batch.present.shape[1]
    present = nn.functional.pad(batch.present, (0, more), value=True)
    unmasked = batch.global_crops.shape[1] - batch.masks.shape[1]
    masks = nn.functional.pad(batch.masks, (0, 0, 0, unmasked), value=False)
    return replace(batch, present=present, masks=masks)


def _present_in(batch: CropBatch, crops: torch.Tensor) -> torch.Tensor:
    """(crops, M) bool: presence repeated for every crop of the cases."""
    return batch.present.repeat(len(crops) // len(batch.present), 1)


class SelfDistillation(nn.Module):
    """A student that learns to agree with its own moving average (DINOv2: Oquab et al. 2023).

    Its state dict has the published keys: `student.backbone.…`, `student.dino_head.…`, `teacher.…`,
    `dino_loss.center`, `ibot_patch_loss.center`. How the networks are called may be replaced from outside
    (`student_call`, `gradient_sync`, `autocast`), which is where parallelism and precision enter; `replicas`
    are the student's modules that every rank holds whole.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.student, self.teacher = build_networks(cfg), build_networks(cfg)
        if cfg.teacher.init_with_student_weights:
            self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.do_ibot = cfg.ibot.loss_weight > 0
        self.separate_head = "ibot_head" in self.student
        ibot_prototypes = (cfg.ibot if self.separate_head else cfg.dino).head_n_prototypes
        self.dino_loss = RunningCenter((1, cfg.dino.head_n_prototypes))
        self.ibot_patch_loss = RunningCenter((1, 1, ibot_prototypes))
        self.autocast: Callable[[], AbstractContextManager[object]] = nullcontext
        self.gradient_sync: Callable[[bool], AbstractContextManager[object]] = lambda _: nullcontext()
        self.replicas: Replicas | None = None
        self.loss_functions: dict[str, Callable[..., torch.Tensor]] = {
            "dino": dino_loss,
            "ibot": ibot_patch_loss,
        }
        self.student_call = network_calls(self.student)
        self.teacher_call = network_calls(self.teacher)

    def compile_losses(self) -> None:
        """Fuse each cross-entropy over the prototypes into a few kernels."""
        for name, function in self.loss_functions.items():
            self.loss_functions[name] = torch.compile(function, dynamic=False)

    @property
    def student_backbone(self) -> MedicalVisionTransformer:
        return self.student["backbone"]  # type: ignore[return-value]

    @property
    def teacher_backbone(self) -> MedicalVisionTransformer:
        return self.teacher["backbone"]  # type: ignore[return-value]

    def forward_backward(self, batch: CropBatch, step: StepInputs) -> Losses:
        """Losses of a batch; their gradients are added to the student's parameters.

        Local and global crops go backward one after the other: the activations of only one of them are
        held at a time, and the gradients add up to those of the sum.

        Returns:
            The published display terms and their sum `total_loss`: DINO as it is, KoLeo and iBOT halved.
            Detached scalars on the device.
        """
        batch = _with_all_channels(batch)
        targets = self.teacher_targets(batch, step.temperature)
        shown: Losses = {}
        if len(batch.local_crops):
            with self.gradient_sync(False):
                loss = self._local_loss(batch, step, targets, shown)
                loss.backward()
        with self.gradient_sync(True):
            loss = self._global_loss(batch, step, targets, shown)
            loss.backward()
        self.dino_loss.settle()
        self.ibot_patch_loss.settle()
        shown = {name: value.detach() for name, value in shown.items()}
        if targets.masked is not None:
            shown["masked_patches"] = targets.masked.count
        return shown

    @torch.no_grad()
    def teacher_targets(self, batch: CropBatch, temperature: float | torch.Tensor) -> Targets:
        """The teacher's distributions; the running centers move when they `settle`."""
        cases = len(batch.case_index)
        masked = self._masked_tokens(batch) if self.do_ibot else None
        rows = self._rows(batch.global_crops, batch.masks.shape[-1], masked)
        with self.autocast():
            tokens = self.teacher_call["backbone"](
                batch.global_crops, present=_present_in(batch, batch.global_crops), rows=rows
            )
            scores = self._heads(self.teacher_call, tokens["x_norm_rows"], len(batch.global_crops))
        cls_targets = self._centred(self.dino_loss, scores[0], temperature, None)
        cls_targets = cls_targets.view(GLOBAL_CROPS, cases, -1).flip(0)
        if masked is None:
            return Targets(cls_targets, None, None)
        return Targets(
            cls_targets, self._centred(self.ibot_patch_loss, scores[1], temperature, masked.valid), masked
        )

    def _centred(
        self,
        center: RunningCenter,
        scores: torch.Tensor,
        temperature: float | torch.Tensor,
        valid: torch.Tensor | None,
    ) -> torch.Tensor:
        if self.cfg.train.centering == "sinkhorn_knopp":
            return sinkhorn_knopp(scores, temperature, valid)
        return center.targets(scores, temperature, valid)

    def _masked_tokens(self, batch: CropBatch) -> MaskedTokens:
        crops, modalities, patches = batch.masks.shape
        ibot = self.cfg.ibot
        bound = masked_token_bound(
            crops,
            modalities,
            patches,
            sample_probability=ibot.mask_sample_probability,
            ratio_max=max(ibot.mask_ratio_min_max),
            whole_modality=ibot.mask_per_channel and ibot.mask_whole_modality,
        )
        # A modality that the case lacks has nothing to predict.
        there = _present_in(batch, batch.global_crops).unsqueeze(-1)
        return select_masked(batch.masks & there, bound)

    def _rows(self, crops: torch.Tensor, patches: int, masked: MaskedTokens | None) -> torch.Tensor:
        """The tokens that the losses look at: CLS tokens and masked patches."""
        index = None if masked is None else masked.index
        return self.student_backbone.token_rows(len(crops), crops.shape[1] * patches, index)

    def _heads(
        self, network: NetworkCalls, tokens: torch.Tensor, cls: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of the first `cls` tokens and of the rest, in one pass where they share a head."""
        if self.separate_head and len(tokens) > cls:
            return network["dino_head"](tokens[:cls]), network["ibot_head"](tokens[cls:])
        scores = network["dino_head"](tokens)
        return scores[:cls], scores[cls:]

    @contextmanager
    def _backbone_gradients(self, frozen: bool) -> Iterator[None]:
        with torch.no_grad() if frozen else nullcontext():
            yield

    def _student_tokens(
        self,
        crops: torch.Tensor,
        batch: CropBatch,
        masks: torch.Tensor | None,
        masked: MaskedTokens | None,
        scales: torch.Tensor | None,
        frozen: bool,
    ) -> torch.Tensor:
        """CLS tokens of the crops, then their masked patches: (crops + L, D)."""
        patches = (crops.shape[-1] // self.student_backbone.patch_size) ** 2
        rows = self._rows(crops, patches, masked)
        with self._backbone_gradients(frozen):
            tokens: torch.Tensor = self.student_call["backbone"](
                crops, masks, present=_present_in(batch, crops), drop_scales=scales, rows=rows
            )["x_norm_rows"]
        return tokens

    def _pairs(self) -> int:
        """Pairs of views that DINO compares: every local crop and the other global crop with a global one."""
        return GLOBAL_CROPS * (GLOBAL_CROPS - 1) + max(self.cfg.crops.local_crops_number * GLOBAL_CROPS, 1)

    def _local_loss(
        self, batch: CropBatch, step: StepInputs, targets: Targets, shown: Losses
    ) -> torch.Tensor:
        cases = len(batch.case_index)
        with self.autocast():
            tokens = self._student_tokens(
                batch.local_crops, batch, None, None, step.local_scales, step.frozen
            )
            scores, _ = self._heads(self.student_call, tokens, len(tokens))
        scores = scores.view(-1, cases, scores.shape[-1])
        dino = self.loss_functions["dino"](scores, targets.cls) / self._pairs()
        shown["dino_local_crops_loss"] = dino
        shown["total_loss"] = dino
        labelled = self._labelled_loss(scores, step, shown)
        return self.cfg.dino.loss_weight * dino + labelled

    def _global_loss(
        self, batch: CropBatch, step: StepInputs, targets: Targets, shown: Losses
    ) -> torch.Tensor:
        cfg, cases = self.cfg, len(batch.case_index)
        with self.autocast():
            tokens = self._student_tokens(
                batch.global_crops, batch, batch.masks, targets.masked, step.global_scales, step.frozen
            )
            cls = tokens[: len(batch.global_crops)]
            scores, patch_scores = self._heads(self.student_call, tokens, len(cls))
        # Crop g against the other crop's target, all crops as one view: the mean of both, counted twice.
        pairs = scores[None], targets.cls.flatten(0, 1)[None]
        dino = self.loss_functions["dino"](*pairs) * GLOBAL_CROPS / self._pairs()
        shown["dino_global_crops_loss"] = dino
        total = cfg.dino.loss_weight * dino
        shown["total_loss"] = shown.get("total_loss", 0) + dino
        if cfg.dino.koleo_loss_weight > 0:
            koleo = sum(
                koleo_loss(view, over_ranks=cfg.dino.koleo_global) for view in cls.chunk(GLOBAL_CROPS)
            )
            shown["koleo_loss"] = cfg.dino.koleo_loss_weight * koleo / GLOBAL_CROPS
            shown["total_loss"] = shown["total_loss"] + shown["koleo_loss"]
            total = total + cfg.dino.koleo_loss_weight * koleo
        if targets.masked is not None and targets.patches is not None:
            masked = targets.masked
            ibot = self.loss_functions["ibot"](patch_scores, targets.patches, masked.weight, masked.crops)
            shown["ibot_loss"] = ibot / GLOBAL_CROPS
            shown["total_loss"] = shown["total_loss"] + shown["ibot_loss"]
            total = total + cfg.ibot.loss_weight * ibot
        return total + self._labelled_loss(scores.view(GLOBAL_CROPS, cases, -1), step, shown)

    def _labelled_loss(self, scores: torch.Tensor, step: StepInputs, shown: Losses) -> torch.Tensor:
        """This part's share of the semi-supervised loss, which is a mean over all crops."""
        settings = self.cfg.semi_supervised
        if settings.loss_weight <= 0 or step.labels is None:
            return scores.new_zeros(())
        loss = semi_supervised_loss(
            scores,
            step.labels,
            classes=self.cfg.dino.head_n_prototypes,
            temperature=settings.temperature,
            label_smoothing=settings.label_smoothing,
        ) * (len(scores) / (self.cfg.crops.local_crops_number + GLOBAL_CROPS))
        shown["labeled_loss"] = shown.get("labeled_loss", 0) + loss
        shown["total_loss"] = shown["total_loss"] + loss
        return settings.loss_weight * loss
