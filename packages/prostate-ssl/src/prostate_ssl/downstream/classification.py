"""Classifying cases: a linear head on the backbone, frozen or trained with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from prostate_ssl.data import ProstateDataset
from prostate_ssl.downstream.segmentation import FinetuneSettings, fit, predict
from prostate_ssl.downstream.tasks import Slices, read_slices
from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.features import model_side
from prostate_ssl.evaluation.probe import DEFAULT_METRICS, score
from prostate_ssl.models.vision_transformer import MedicalVisionTransformer


class ClassificationModel(nn.Module):
    """CLS token and mean patch token → normalisation → one linear layer."""

    def __init__(self, backbone: MedicalVisionTransformer, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        # Statistics of the training set, as a standard scaler: frozen features differ in scale by channel.
        self.norm = nn.BatchNorm1d(2 * backbone.embed_dim, affine=False)
        self.classify = nn.Linear(2 * backbone.embed_dim, classes)

    def forward(self, x: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """(B, M, H, W) → class scores (B, C)."""
        tokens = self.backbone.forward_features(x, present=present)
        vector = torch.cat([tokens["x_norm_clstoken"], tokens["x_norm_patchtokens"].mean(1)], dim=1)
        # A last batch of one case has no variance to normalise with.
        normed = self.norm(vector) if len(vector) > 1 or not self.training else vector
        scores: torch.Tensor = self.classify(normed)
        return scores


def finetune_classification(
    backbone: MedicalVisionTransformer,
    train: ProstateDataset,
    val: ProstateDataset,
    settings: FinetuneSettings,
    device: torch.device,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[ClassificationModel, dict[str, object]]:
    """Learn the classes of labelled cases; a case's prediction is the mean over its gland slices.

    Returns:
        The model, and a document with the metrics of the validation cases.

    Raises:
        ProstateError: no labels, or one class only.
    """
    side = model_side(backbone)
    learn, judge = _labelled(train, side, "training"), _labelled(val, side, "validation")
    classes = int(max(learn.labels.max(), judge.labels.max())) + 1
    if len(learn.labels.unique()) < 2:
        raise ProstateError(
            f"All {len(learn.cases.unique())} training cases whose labels are used are of class "
            f"{int(learn.labels[0])}: two are needed."
        )
    torch.manual_seed(settings.seed)
    model = ClassificationModel(backbone, classes).to(device)
    losses = fit(
        model,
        backbone,
        learn,
        settings,
        device,
        lambda out, p: F.cross_entropy(out, p.labels.to(device)),
        progress,
    )
    probabilities = predict(model, judge, settings.batch_size, device).softmax(-1)
    cases = judge.cases.unique()
    means = torch.stack([probabilities[judge.cases == c].mean(0) for c in cases]).numpy()
    labels = np.array([int(judge.labels[judge.cases == c][0]) for c in cases])
    metrics = score(labels, means, np.arange(classes), DEFAULT_METRICS)
    return model, {
        "schema": "prostate-ssl/finetune/1",
        "task": "classification",
        "frozen": settings.frozen,
        "train_cases": len(learn.cases.unique()),
        "metrics": {k: (v if np.isfinite(v) else None) for k, v in metrics.items()},
        "losses": losses,
    }


def _labelled(dataset: ProstateDataset, side: int, what: str) -> Slices:
    cases = [i for i in range(len(dataset)) if dataset.labels[i] >= 0 and dataset.label_used[i]]
    if not cases and (dataset.labels >= 0).any():
        raise ProstateError(f"percentage_labels leaves no {what} case its label: raise it.")
    if not cases:
        raise ProstateError(f"No {what} case has a label: add a label column to its list, or labels.csv.")
    return read_slices(dataset, side, "gland", cases)
