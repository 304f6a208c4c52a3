"""Segmenting the gland: a convolutional decoder on patch tokens and the image itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from prostate_ssl.data import ProstateDataset
from prostate_ssl.downstream.tasks import Slices, batches, read_slices, readable
from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.features import model_side
from prostate_ssl.models.vision_transformer import MedicalVisionTransformer


@dataclass(frozen=True)
class FinetuneSettings:
    """How a task is learned.

    Attributes:
        epochs: passes over the training slices.
        batch_size: slices a step.
        lr: learning rate of the head; a trained backbone gets a tenth of it.
        frozen: the backbone stays as it is.
        seed: of the head's weights and the order.
    """

    epochs: int = 30
    batch_size: int = 8
    lr: float = 2e-3
    frozen: bool = True
    seed: int = 0


class SegmentationModel(nn.Module):
    """Backbone, and a decoder that upsamples its tokens and refines them with the image (after UNETR, 2022).

    The patch tokens of all modalities, side by side, are projected, doubled in size until they are near the
    image's, and joined with a shallow convolution of the image, whose edges the patches don't resolve.
    """

    def __init__(self, backbone: MedicalVisionTransformer, modalities: int, width: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        self.project = nn.Conv2d(modalities * backbone.embed_dim, width, 1)
        self.stages = nn.ModuleList(_convolution(width, width) for _ in range(3))
        self.stem = _convolution(modalities, width // 2)
        self.refine = _convolution(width + width // 2, width // 2)
        self.classify = nn.Conv2d(width // 2, 1, 1)

    def forward(self, x: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """(B, M, H, W) → logits of the gland, (B, H, W)."""
        _, modalities, height, width = x.shape
        tokens = self.backbone.forward_features(x, present=present)["x_norm_patchtokens"]
        grid = height // self.backbone.patch_size, width // self.backbone.patch_size
        y = tokens.unflatten(1, (modalities, *grid)).permute(0, 1, 4, 2, 3).flatten(1, 2)
        y = self.project(y)
        for stage in self.stages:
            y = stage(F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False))
        y = F.interpolate(y, size=(height, width), mode="bilinear", align_corners=False)
        y = self.refine(torch.cat([y, self.stem(x)], dim=1))
        logits: torch.Tensor = self.classify(y)[:, 0]
        return logits


def _convolution(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, padding=1), nn.GroupNorm(8, out), nn.GELU())


def dice_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """1 − soft Dice (Milletari et al. 2016) of each slice, averaged; plus cross-entropy."""
    target = masks.float()
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum((1, 2)) + 1
    size = probability.sum((1, 2)) + target.sum((1, 2)) + 1
    return (1 - overlap / size).mean() + F.binary_cross_entropy_with_logits(logits, target)


def dice_score(
    predicted: torch.Tensor,
    masks: torch.Tensor,
    cases: torch.Tensor,
    beyond: Callable[[int], float] = lambda _: 0.0,
) -> dict[int, float]:
    """Dice of each case over all its slices: 2 |A ∩ B| / (|A| + |B|), 1 where both are empty.

    Args:
        predicted, masks: (S, H, W) bool.
        cases: (S,) int64.
        beyond: pixels of a case's mask that lie outside of its slices' window: missed.
    """
    scores = {}
    for case in cases.unique().tolist():
        a, b = predicted[cases == case], masks[cases == case]
        total = int(a.sum() + b.sum()) + beyond(case)
        scores[int(case)] = 2 * int((a & b).sum()) / total if total else 1.0
    return scores


def masked_cases(dataset: ProstateDataset, what: str) -> list[int]:
    """Cases whose mask is there and may be shown; one that cannot be read is named in the log.

    Raises:
        ProstateError: none.
    """
    found = [i for i in readable(dataset) if dataset.gland_or_none(i) is not None]
    if not found:
        raise ProstateError(
            f"No case of {what} has a gland mask (roi_Prostate): there is nothing to learn from."
        )
    return found


def finetune_segmentation(
    backbone: MedicalVisionTransformer,
    train: ProstateDataset,
    val: ProstateDataset,
    settings: FinetuneSettings,
    device: torch.device,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[SegmentationModel, dict[str, object]]:
    """Learn to segment the gland, in windows around the slices' centre: a new patient has no mask to follow.

    Returns:
        The model, and a document with the mean Dice of the validation cases, per case, and the losses.
    """
    side = model_side(backbone)
    learn, judge = (
        read_slices(dataset, side, "all", masked_cases(dataset, f"the {what} set"), around_gland=False)
        for dataset, what in ((train, "training"), (val, "validation"))
    )
    torch.manual_seed(settings.seed)
    model = SegmentationModel(backbone, learn.images.shape[1]).to(device)
    losses = fit(
        model,
        backbone,
        learn,
        settings,
        device,
        lambda out, part: dice_loss(out, part.masks.to(device)),
        progress,
    )
    predicted = predict(model, judge, settings.batch_size, device) > 0
    scores = dice_score(
        predicted, judge.masks, judge.cases, lambda case: val.gland_beyond_window(case) * side**2
    )
    return model, {
        "schema": "prostate-ssl/finetune/1",
        "task": "segmentation",
        "frozen": settings.frozen,
        "train_cases": len(learn.cases.unique()),
        "dice": sum(scores.values()) / len(scores),
        "dice_per_case": {val.case_ids[i]: round(v, 4) for i, v in scores.items()},
        "losses": losses,
    }


def fit(
    model: nn.Module,
    backbone: nn.Module,
    learn: Slices,
    settings: FinetuneSettings,
    device: torch.device,
    loss_of: Callable[[torch.Tensor, Slices], torch.Tensor],
    progress: Callable[[str], None],
) -> list[float]:
    """Train a head, with or without its backbone, by AdamW under half a cosine; returns mean losses.

    Raises:
        ProstateError: a loss that is no number.
    """
    backbone.requires_grad_(not settings.frozen)
    heads = [p for n, p in model.named_parameters() if not n.startswith("backbone.")]
    groups = [{"params": heads, "lr": settings.lr}]
    if not settings.frozen:
        groups.append({"params": list(backbone.parameters()), "lr": settings.lr / 10})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = settings.epochs * -(-len(learn) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    means = []
    for epoch in range(settings.epochs):
        model.train()
        losses = []
        for rows in batches(len(learn), settings.batch_size, settings.seed, epoch):
            part = learn.of(rows)
            loss = loss_of(model(part.images.to(device), part.present.to(device)), part)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
        if not math.isfinite(means[-1]):
            raise ProstateError(
                f"NaN detected in loss in epoch {epoch + 1}: try a lower --lr than {settings.lr:g}."
            )
        progress(f"epoch {epoch + 1}/{settings.epochs}  loss {means[-1]:.4f}")
    return means


@torch.no_grad()
def predict(model: nn.Module, slices: Slices, batch_size: int, device: torch.device) -> torch.Tensor:
    """Outputs of all slices, on the CPU."""
    model.eval()
    rows = torch.arange(len(slices)).split(batch_size)
    parts = (slices.of(r) for r in rows)
    return torch.cat([model(p.images.to(device), p.present.to(device)).cpu() for p in parts])
