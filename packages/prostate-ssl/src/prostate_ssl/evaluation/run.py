"""Evaluating a run: probes on its best teacher, with every score beside its baselines."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from prostate_ssl.config.choices import metric_names
from prostate_ssl.config.dataset_string import as_trained
from prostate_ssl.data import ProstateDataset, make_dataset
from prostate_ssl.data.store import remarks_line
from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.backbone import Backbone, load_backbone
from prostate_ssl.evaluation.features import (
    Extractor,
    feature_tables,
    histogram_features,
    labelled_count,
    network_features,
)
from prostate_ssl.evaluation.missing import missing_modality_table
from prostate_ssl.evaluation.probe import DEFAULT_METRICS, ProbeResult, knn_probe, leave_one_out, linear_probe
from prostate_ssl.files import write_json

log = logging.getLogger("prostate_ssl")
PLUMBING = "plumbing check: so few cases say that features, labels and classifier fit together, no more"


def labelled_dataset(
    backbone_cfg: DictConfig, data: str, split: str, split_csv: str | None
) -> ProstateDataset:
    """Cases of a folder as the run saw its own; labels where they are known."""
    return make_dataset(dataset_str=as_trained(backbone_cfg.train.dataset_path, data, split, split_csv))


def evaluate_leave_one_out(
    backbone: Backbone, dataset: ProstateDataset, out: Path, run: Path
) -> dict[str, Any]:
    """Leave-one-out probe of a small set, written to `out`.

    Returns:
        The document; without usable labels it holds `skipped`, the reason, and no metrics.
    """
    document: dict[str, Any] = {
        "schema": "prostate-ssl/probe/1",
        "protocol": "leave-one-out",
        "note": PLUMBING,
    }
    if dataset.label_fault:
        document["skipped"] = dataset.label_fault.rstrip(".")
    elif not (dataset.labels >= 0).any():
        document["skipped"] = "the cases have no labels (no label column in the list, no labels.csv)"
    else:
        try:
            tables = feature_tables(dataset, compared_features(backbone, run))
            probes = {name: leave_one_out(table) for name, table in tables.items()}
            document["cases"] = len(probes["trained"].predictions)
            document["results"] = {name: _document(probe) for name, probe in probes.items()}
        except ProstateError as error:
            document["skipped"] = str(error).rstrip(".")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, document)
    return document


def compared_features(backbone: Backbone, run: Path) -> dict[str, Extractor]:
    """The trained network beside its baselines: the same network untrained, and grey values alone."""
    initial = load_backbone(run, untrained=True)
    return {
        "trained": network_features(backbone.model),
        "untrained": network_features(initial.model),
        "intensity histograms": histogram_features(),
    }


def _document(result: ProbeResult) -> dict[str, Any]:
    plain = asdict(result)
    plain["metrics"] = {k: (v if np.isfinite(v) else None) for k, v in result.metrics.items()}
    return plain


def evaluate_split(
    backbone: Backbone,
    train: ProstateDataset,
    val: ProstateDataset,
    names: list[str],
    run: Path,
    judged: str = "val",
) -> dict[str, Any]:
    """Linear and k-NN probe, learned on `train`, judged on `val`; beside them the baselines.

    Networks are probed on CLS and mean patch token together (`linear`, `k-NN`) and on each of them alone.
    """
    extractors = compared_features(backbone, run)
    fit, judge = feature_tables(train, extractors), feature_tables(val, extractors)
    results: dict[str, dict[str, Any]] = {}
    for name, extractor in extractors.items():
        results[name] = {
            "linear": _document(linear_probe(fit[name], judge[name], names)),
            "k-NN": _document(knn_probe(fit[name], judge[name], names)),
        }
        for part, columns in extractor.parts.items():
            alone = linear_probe(fit[name].columns(columns), judge[name].columns(columns), names)
            results[name][f"linear, {part}"] = _document(alone)
    document = {
        "schema": "prostate-ssl/probe/1",
        "protocol": "train and validation split",
        "cases": {"train": labelled_count(fit), judged: labelled_count(judge)},
        "listed": {"train": len(train), judged: len(val)},
        "weights": backbone.weights.name,
        "results": results,
    }
    if said := said_of_lists(train, val):
        document["note"] = said
    return document


def said_of_lists(train: ProstateDataset, val: ProstateDataset) -> str:
    """What to think of scores whose lists share cases or differ in their classes; "" where all is well."""
    said = []
    if shared := sorted(set(train.case_ids) & set(val.case_ids)):
        said.append(f"{len(shared)} cases are in both lists ({shared[0]} …): the scores say nothing")
    learned = train.labels[train.label_used & (train.labels >= 0)]
    foreign = val.labels[(val.labels >= 0) & ~np.isin(val.labels, learned)]
    if len(foreign) and train.spec.kind == "ProstateSupervised":
        classes = ", ".join(str(label) for label in np.unique(foreign))
        said.append(
            f"{len(foreign)} of the judged cases are of a class that no training case has ({classes}): they "
            "count as wrong"
        )
    return "; ".join(said)


def evaluate_run(
    cfg: DictConfig, *, missing_sequences: bool = False, weights: Path | None = None, test: bool = False
) -> int:
    """What `train --eval-only` does: probe the run in `cfg.train.output_dir` on the configured datasets.

    Args:
        cfg: complete configuration.
        missing_sequences: the probe with every subset of the sequences.
        weights: another checkpoint than the run's best teacher.
        test: judge on `evaluation.test_dataset_path` instead of `val_dataset_path`.
    """
    run = Path(cfg.train.output_dir)
    judged = "test" if test else "val"
    paths = cfg.evaluation.train_dataset_path, cfg.evaluation[f"{judged}_dataset_path"]
    if not all(paths):
        raise ProstateError(
            f"Evaluation needs labelled cases: set evaluation.train_dataset_path and .{judged}_dataset_path "
            "(ProstateSupervised:split=…:root=…:split_csv=…).",
            2,
        )
    backbone = load_backbone(run, weights)
    train, val = (make_dataset(dataset_str=path) for path in paths)
    for dataset in (train, val):
        dataset.require_labels()
    names = list(metric_names(cfg.evaluation.metric_types))
    if missing_sequences:
        document = missing_modality_table(backbone.model, train, val, names)
        target = run / "eval" / f"missing_modalities{'_test' if test else ''}.json"
    else:
        document = evaluate_split(backbone, train, val, names, run, judged)
        target = run / "eval" / f"probe{'_test' if test else ''}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, document)
    print_document(document)
    print_remarks(train, val)
    print(f"Written to {target}")
    return 0


def result_rows(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a probe or missing-modality document, for a terminal or a page."""
    rows: list[list[str]] = []
    names: list[str] = []
    for features, result in document.get("results", {}).items():
        probes = {"": result} if "metrics" in result else result
        for probe, scores in probes.items():
            names = list(scores["metrics"]) or list(DEFAULT_METRICS)
            shown = ["–" if scores["metrics"][n] is None else f"{scores['metrics'][n]:.3f}" for n in names]
            rows.append([f"{features} {probe}".strip(), *shown])
    return ["features", *names], rows


def print_remarks(*datasets: ProstateDataset) -> None:
    """In one line, how many of the cases that were read were used with a fallback, as without a modality."""
    notes = {name: said for dataset in datasets for name, said in dataset.notes.items()}
    if notes:
        print(remarks_line(notes, sum(map(len, datasets))))


def cases_text(document: dict[str, Any]) -> str:
    """On how many cases the scores stand; "" of a document that doesn't say."""
    cases = document.get("cases")
    if isinstance(cases, int):
        return f"Judged on {cases} cases."
    if not cases:
        return ""
    learned, (judged, count) = cases["train"], next((k, n) for k, n in cases.items() if k != "train")
    left_out = sum(document.get("listed", cases).values()) - learned - count
    why = f" ({left_out} listed cases have no label or cannot be read)" if left_out else ""
    return f"Learned on {learned} cases, judged on {count} ({judged}){why}."


def print_document(document: dict[str, Any]) -> None:
    """The table of a document on the terminal."""
    if "skipped" in document:
        print(f"No probe: {document['skipped']}.")
        return
    columns, rows = result_rows(document)
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if said := cases_text(document):
        print(said)
    if "note" in document:
        print(f"({document['note']})")
