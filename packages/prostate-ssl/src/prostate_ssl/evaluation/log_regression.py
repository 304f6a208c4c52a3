"""The published evaluation function, under its name and with its result."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, Sequence
from typing import Any

import numpy as np
import torch

from prostate_ssl.config.choices import metric_names
from prostate_ssl.data import make_dataset
from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.features import FeatureTable, feature_tables, network_features
from prostate_ssl.evaluation.probe import C_VALUES, linear_probe
from prostate_ssl.models.vision_transformer import MedicalVisionTransformer


class LogRegressionResults(tuple[Any, ...]):
    """What the published function returns, in both forms that its users know.

    Its documentation reads metrics by name (`results["accuracy"]`), its code returns five values
    (`metrics, train_features, train_labels, val_features, val_labels = …`). Features are (N, 2, D) float32:
    CLS token, mean patch token; labels (N,) int64.
    """

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        return self.metrics[key] if isinstance(key, str) else super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        return key in self.metrics

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by name, and `best_C`."""
        found: dict[str, float] = super().__getitem__(0)
        return found

    def keys(self) -> KeysView[str]:
        """Names of the metrics; makes `dict(results)` the metrics."""
        return self.metrics.keys()

    def items(self) -> ItemsView[str, float]:
        """Names and values of the metrics."""
        return self.metrics.items()


def eval_log_regression_with_model(
    model: MedicalVisionTransformer,
    train_features: torch.Tensor | None = None,
    train_labels: torch.Tensor | None = None,
    train_dataset_str: str = "",
    val_dataset_str: str = "",
    finetune_dataset_str: str | None = None,
    autocast_dtype: torch.dtype = torch.float,
    finetune_on_val: bool = False,
    metric_types: Sequence[Any] = ("accuracy", "f1", "auc"),
    train_dtype: torch.dtype = torch.float64,
    train_features_device: torch.device | str = "cpu",
    max_train_iters: int = 1000,
    num_workers: int = 0,
    mri_sequences: Sequence[str] | None = None,
    *,
    batch_size: int = 64,
) -> LogRegressionResults:
    """Logistic regression on the frozen features of labelled cases.

    Args:
        model: the backbone, wherever it lies; its mode is restored afterwards.
        train_features, train_labels: of an earlier call, to save computing them again; (N, 2, D) and (N,).
        train_dataset_str: `ProstateSupervised:split=TRAIN:root=…`, the cases to learn from.
        val_dataset_str: the cases to judge on.
        finetune_dataset_str: cases to choose the regularisation on are added to the training cases, among
            which it is cross-validated.
        autocast_dtype: of the network's products; torch.float: as they are.
        finetune_on_val: choose the regularisation on the cases that are judged (an optimistic score).
        metric_types: of `config.choices.METRICS`; the first chooses the regularisation.
        train_dtype, train_features_device: accepted as published; the regression runs in float64 on the CPU.
        max_train_iters: iterations of the solver.
        num_workers: accepted as published; slices are read by the calling process.
        mri_sequences: of the dataset's sequences those that are shown to the model; default all.
        batch_size: slices at once.

    Raises:
        ProstateError: no labels, one class only, an unknown sequence.
    """
    names = metric_names(metric_types)
    tables = _Tables(model, autocast_dtype, mri_sequences, batch_size)
    was_training = model.training
    model.eval()
    try:
        if train_features is not None and train_labels is not None:
            train = _given(train_features, train_labels)
        else:
            train = tables.of(train_dataset_str)
        if finetune_dataset_str:
            train = _join(train, tables.of(finetune_dataset_str))
        val = tables.of(val_dataset_str)
    finally:
        model.train(was_training)
    values: Sequence[float] | np.ndarray = C_VALUES
    if finetune_on_val:
        scores = [
            linear_probe(train, val, names[:1], c_values=[c], max_iter=max_train_iters).metrics[names[0]]
            for c in C_VALUES
        ]
        values = [float(C_VALUES[int(np.nanargmax(scores))])]
    result = linear_probe(train, val, names, c_values=values, max_iter=max_train_iters)
    metrics = result.metrics | {"best_C": float(result.best_c or 0)}
    return LogRegressionResults((metrics, *_tensors(train), *_tensors(val)))


class _Tables:
    """Features of the cases of a dataset string."""

    def __init__(
        self,
        model: MedicalVisionTransformer,
        dtype: torch.dtype,
        sequences: Sequence[str] | None,
        batch_size: int,
    ) -> None:
        unknown = [name for name in sequences or () if name not in model.mri_sequences]
        if unknown:
            raise ProstateError(
                f"The model has no sequence {unknown[0]!r}; it has {', '.join(model.mri_sequences)}.", 2
            )
        kept = None if sequences is None else [model.mri_sequences.index(name) for name in sequences]
        self._extractor = network_features(model, kept)
        self._device = next(model.parameters()).device.type
        self._dtype = dtype
        self._batch_size = batch_size

    def of(self, dataset_str: str) -> FeatureTable:
        dataset = make_dataset(dataset_str=dataset_str)
        dataset.require_labels()
        half = self._dtype in (torch.float16, torch.bfloat16)
        with torch.no_grad(), torch.autocast(self._device, self._dtype if half else None, enabled=half):
            found = feature_tables(dataset, {"network": self._extractor}, batch_size=self._batch_size)
        return found["network"]


def _given(features: torch.Tensor, labels: torch.Tensor) -> FeatureTable:
    vectors = features.flatten(1).float().cpu().numpy()
    return FeatureTable(
        tuple(f"given_{row}" for row in range(len(vectors))), labels.cpu().numpy().astype(np.int64), vectors
    )


def _tensors(table: FeatureTable) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, 2, D) and labels (N,)."""
    return torch.from_numpy(table.vectors).unflatten(1, (2, -1)), torch.from_numpy(table.labels)


def _join(a: FeatureTable, b: FeatureTable) -> FeatureTable:
    return FeatureTable(
        a.case_ids + b.case_ids, np.concatenate([a.labels, b.labels]), np.concatenate([a.vectors, b.vectors])
    )
