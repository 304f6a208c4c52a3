"""What happens when modalities are missing: the probe with every subset of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from prostate_ssl.data import ProstateDataset
from prostate_ssl.evaluation.features import case_vectors, feature_tables, labelled_count, network_features
from prostate_ssl.evaluation.probe import linear_probe
from prostate_ssl.models.vision_transformer import MedicalVisionTransformer


def missing_modality_table(
    model: MedicalVisionTransformer, train: ProstateDataset, val: ProstateDataset, names: Sequence[str]
) -> dict[str, Any]:
    """Linear probe that learned on all modalities, judged on validation cases that have only some.

    Args:
        model: frozen.
        train, val: labelled cases.
        names: metrics; the first chooses the regularisation.

    Returns:
        A document with one result per non-empty subset of the modalities.
    """
    modalities = model.mri_sequences
    fit = case_vectors(model, train)
    subsets = [
        kept
        for count in range(len(modalities), 0, -1)
        for kept in combinations(range(len(modalities)), count)
    ]
    judged = feature_tables(
        val,
        {" + ".join(modalities[k] for k in kept): network_features(model, kept) for kept in subsets},
    )
    results = {}
    for shown, table in judged.items():
        result = linear_probe(fit, table, names)
        results[shown] = {"metrics": {k: (v if np.isfinite(v) else None) for k, v in result.metrics.items()}}
    return {
        "schema": "prostate-ssl/missing-modalities/1",
        "cases": labelled_count(judged),
        "results": results,
    }
