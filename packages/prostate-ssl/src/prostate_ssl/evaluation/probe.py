"""Probes on frozen features: logistic regression and nearest neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
    roc_auc_score,
)
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prostate_ssl.config.choices import metric_names
from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.features import FeatureTable

DEFAULT_METRICS = ("mcc", "accuracy", "f1", "auc")
C_VALUES = 10.0 ** np.linspace(-6, 5, 45)


@dataclass(frozen=True)
class ProbeResult:
    """What a probe scored.

    Attributes:
        metrics: by name, of the validation cases.
        best_c: the chosen inverse regularisation (logistic regression), or None.
        predictions: rows (case, label, predicted class, probability of the highest class).
    """

    metrics: dict[str, float]
    best_c: float | None
    predictions: list[dict[str, Any]] = field(default_factory=list)


def score(
    labels: np.ndarray, probabilities: np.ndarray, classes: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """Metrics of predicted class probabilities.

    Args:
        labels: (N,) true classes; one that is not in `classes` was never learned, and its cases are wrong.
        probabilities: (N, C), columns in the order of `classes`.
        names: of `config.choices.METRICS`. AUC of several classes is one against the rest, averaged; where
            the validation cases have one class only, it is NaN.
    """
    predicted = classes[probabilities.argmax(1)]
    average = "binary" if {*classes.tolist(), *labels.tolist()} <= {0, 1} else "macro"
    values = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        warnings.simplefilter("ignore", UserWarning)
        for name in names:
            if name == "mcc":
                values[name] = matthews_corrcoef(labels, predicted)
            elif name == "accuracy":
                values[name] = accuracy_score(labels, predicted)
            elif name == "mean_per_class_accuracy":
                values[name] = balanced_accuracy_score(labels, predicted)
            elif name == "f1":
                values[name] = f1_score(labels, predicted, average=average, zero_division=0)
            else:
                values[name] = _auc(labels, probabilities, classes)
    return {name: float(value) for name, value in values.items()}


def _auc(labels: np.ndarray, probabilities: np.ndarray, classes: np.ndarray) -> float:
    present = [c for c in classes if (labels == c).any() and (labels != c).any()]
    if not present:
        return float("nan")
    if len(classes) == 2 and classes[1] in present:
        return float(roc_auc_score(labels == classes[1], probabilities[:, 1]))
    column = {c: i for i, c in enumerate(classes.tolist())}
    return float(np.mean([roc_auc_score(labels == c, probabilities[:, column[c]]) for c in present]))


def _regression(c: float, max_iter: int) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=max_iter, tol=1e-6))


def require_classes(table: FeatureTable, what: str) -> None:
    """Refuse training data that a classifier cannot learn from.

    Raises:
        ProstateError: no labelled case, or one class only.
    """
    found = np.unique(table.labels)
    if len(table.labels) == 0:
        raise ProstateError(f"No case of {what} has a label: add a label column to its list, or labels.csv.")
    if len(found) < 2:
        raise ProstateError(
            f"All {len(table.labels)} labelled cases of {what} are of class {found[0]}: two are needed."
        )


def linear_probe(
    train: FeatureTable,
    val: FeatureTable,
    names: Sequence[str] = DEFAULT_METRICS,
    *,
    c_values: Sequence[float] | np.ndarray = C_VALUES,
    max_iter: int = 1000,
    seed: int = 0,
) -> ProbeResult:
    """Logistic regression on frozen features.

    C is chosen by the first metric, cross-validated within the training cases (the published protocol holds
    out a random tenth, which is a handful of patients here), then fitted on all of them.

    Raises:
        ProstateError: labels missing, or of one class only.
    """
    train, val = train.labelled(), val.labelled()
    names = metric_names(names)
    require_classes(train, "the training set")
    if len(val.labels) == 0:
        raise ProstateError("No case of the validation set has a label.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        best_c = _choose_c(train, names[0], c_values, max_iter, seed)
        model = _regression(best_c, max_iter).fit(train.vectors, train.labels)
    probabilities = model.predict_proba(val.vectors)
    classes = model.classes_
    return ProbeResult(
        score(val.labels, probabilities, classes, names), best_c, _rows(val, probabilities, classes)
    )


def _rows(table: FeatureTable, probabilities: np.ndarray, classes: np.ndarray) -> list[dict[str, Any]]:
    predicted = classes[probabilities.argmax(1)]
    return [
        {"case": case, "label": int(label), "predicted": int(guess), "probability": float(p)}
        for case, label, guess, p in zip(
            table.case_ids, table.labels, predicted, probabilities[:, -1], strict=True
        )
    ]


def _choose_c(
    train: FeatureTable, metric: str, c_values: Sequence[float] | np.ndarray, max_iter: int, seed: int
) -> float:
    smallest = int(np.bincount(train.labels)[np.unique(train.labels)].min())
    if len(c_values) == 1 or smallest < 2:
        return float(c_values[len(c_values) // 2])
    folds = list(
        StratifiedKFold(min(5, smallest), shuffle=True, random_state=seed).split(train.vectors, train.labels)
    )
    classes = np.unique(train.labels)
    means = []
    for c in c_values:
        probabilities = np.zeros((len(train.labels), len(classes)))
        for fit, held in folds:
            model = _regression(float(c), max_iter).fit(train.vectors[fit], train.labels[fit])
            columns = np.searchsorted(classes, model.classes_)
            probabilities[np.ix_(held, columns)] = model.predict_proba(train.vectors[held])
        means.append(score(train.labels, probabilities, classes, [metric])[metric])
    # Among equals the strongest regularisation.
    return float(c_values[int(np.nanargmax(means))])


def knn_probe(
    train: FeatureTable, val: FeatureTable, names: Sequence[str] = DEFAULT_METRICS, *, neighbours: int = 20
) -> ProbeResult:
    """Cosine nearest neighbours, weighted by similarity (Wu et al. 2018; the k-NN protocol of DINO)."""
    train, val = train.labelled(), val.labelled()
    require_classes(train, "the training set")
    k = min(neighbours, len(train.labels))
    model = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    model.fit(train.vectors, train.labels)
    probabilities = model.predict_proba(val.vectors)
    return ProbeResult(
        score(val.labels, probabilities, model.classes_, metric_names(names)),
        None,
        _rows(val, probabilities, model.classes_),
    )


def leave_one_out(
    table: FeatureTable, names: Sequence[str] = DEFAULT_METRICS, *, c: float = 0.01
) -> ProbeResult:
    """Each case is predicted from all others: for sets that are too small to be split.

    With a dozen cases the score says that features, labels and classifier fit together, no more.

    Raises:
        ProstateError: fewer than two labelled cases of each class.
    """
    table = table.labelled()
    require_classes(table, "the data")
    if np.bincount(table.labels)[np.unique(table.labels)].min() < 2:
        raise ProstateError("Leave-one-out needs two labelled cases of each class at least.")
    classes = np.unique(table.labels)
    probabilities = np.zeros((len(table.labels), len(classes)))
    for held in range(len(table.labels)):
        rest = np.arange(len(table.labels)) != held
        model = _regression(c, 1000).fit(table.vectors[rest], table.labels[rest])
        probabilities[held, np.searchsorted(classes, model.classes_)] = model.predict_proba(
            table.vectors[held : held + 1]
        )[0]
    return ProbeResult(
        score(table.labels, probabilities, classes, metric_names(names)),
        c,
        _rows(table, probabilities, classes),
    )
