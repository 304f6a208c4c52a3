"""The published evaluation function, under its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prostate_ssl.data import make_dataset
from prostate_ssl.evaluation.features import FeatureTable, case_vectors
from prostate_ssl.evaluation.probe import linear_probe
from prostate_ssl.models.vision_transformer import MedicalVisionTransformer


def eval_log_regression_with_model(
    model: MedicalVisionTransformer,
    train_dataset_str: str,
    val_dataset_str: str,
    *,
    finetune_dataset_str: str | None = None,
    metric_types: Sequence[Any] = ("accuracy", "f1", "auc"),
    max_train_iters: int = 1000,
    num_workers: int = 0,
    batch_size: int = 64,
) -> dict[str, float]:
    """Logistic regression on the frozen features of labelled cases.

    Args:
        model: the backbone, wherever it lies; its mode is restored afterwards.
        train_dataset_str: `ProstateSupervised:split=TRAIN:root=…`, the cases to learn from.
        val_dataset_str: the cases to judge on.
        finetune_dataset_str: cases to choose the regularisation on are added to the training cases, among
            which it is cross-validated.
        metric_types: of mcc, accuracy, f1, auc; the first chooses the regularisation.
        max_train_iters: iterations of the solver.
        num_workers: accepted as published; slices are read by the calling process.
        batch_size: slices at once.

    Returns:
        The metrics by name, and `best_C`.

    Raises:
        ProstateError: no labels, or one class only.
    """
    was_training = model.training
    model.eval()
    try:
        train = _features(model, train_dataset_str, batch_size)
        if finetune_dataset_str:
            more = _features(model, finetune_dataset_str, batch_size)
            train = _join(train, more)
        val = _features(model, val_dataset_str, batch_size)
    finally:
        model.train(was_training)
    result = linear_probe(train, val, metric_types, max_iter=max_train_iters)
    return result.metrics | {"best_C": float(result.best_c or 0)}


def _features(model: MedicalVisionTransformer, dataset_str: str, batch_size: int) -> FeatureTable:
    with torch.no_grad():
        return case_vectors(model, make_dataset(dataset_str=dataset_str), batch_size=batch_size)


def _join(a: FeatureTable, b: FeatureTable) -> FeatureTable:
    import numpy as np

    return FeatureTable(
        a.case_ids + b.case_ids, np.concatenate([a.labels, b.labels]), np.concatenate([a.vectors, b.vectors])
    )
