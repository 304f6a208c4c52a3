"""What there is to say about a run, as sections of text, pictures and tables."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.backbone import BEST_TEACHER
from prostate_ssl.evaluation.run import cases_text, result_rows
from prostate_ssl.report.diagnosis import diagnose
from prostate_ssl.training.checkpoint import newest_checkpoint
from prostate_ssl.training.curves import draw_curves
from prostate_ssl.training.metrics import read_metrics


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: heading.
        text: a paragraph, or None.
        image: picture file, or None.
        columns, rows: a table; no rows, no table.
    """

    title: str
    text: str | None = None
    image: Path | None = None
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def collect_sections(run: Path) -> list[Section]:
    """Everything that the run's folder holds, in the order in which one reads it.

    Raises:
        ProstateError: no run, or nothing was trained yet.
    """
    if not (run / "config.yaml").is_file():
        raise ProstateError(
            f"{run} is no run: it has no config.yaml. Give the --output-dir of a training.", 2
        )
    records = read_metrics(run)
    if not records:
        raise ProstateError(f"{run} has no metrics yet: train first.")
    draw_curves(records, run / "curves.png")
    first, last = _ends(records)
    sections = [
        Section(
            "Loss curves",
            f"{_loss_text(first, last)}{_speed_text(records)}{_progress_text(run)}",
            run / "curves.png",
        ),
        _diagnosis_section(records, run),
    ]
    sections += periodic_section(run)
    sections += _probe_sections(run)
    pictures = run / "pictures"
    for path in sorted(pictures.glob("pca_*.png")):
        sections.append(
            Section(
                "PCA of patch features over the slices",
                "The first three principal components of the patch tokens as colours; yellow: the gland.",
                path,
            )
        )
    for path in sorted(pictures.glob("attention_*.png")):
        sections.append(Section("Attention of the CLS token", None, path))
    sections.append(_configuration_section(run))
    return sections


def _ends(records: dict[int, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    keys = list(records)
    return records[keys[0]], records[keys[-1]]


def _loss_text(first: dict[str, Any], last: dict[str, Any]) -> str:
    before, after = first.get("total_loss"), last.get("total_loss")
    if not before or after is None:
        return "The loss of the first or last record is no number."
    return f"total_loss went from {before:.3f} to {after:.3f} ({100 * (after / before - 1):+.1f}%)."


def _speed_text(records: dict[int, dict[str, Any]]) -> str:
    """The median iteration (the first ones compile), and what of it went into waiting."""
    timed = [r for r in records.values() if r.get("iteration_seconds") and r.get("data_seconds") is not None]
    if not timed:
        return ""
    whole = statistics.median(r["iteration_seconds"] for r in timed)
    waited = statistics.median(r["data_seconds"] / r["iteration_seconds"] for r in timed)
    return f" An iteration took {1000 * whole:.4g} ms (median), {100 * waited:.1f}% of it waiting for data."


def _progress_text(run: Path) -> str:
    """How far the run is, from its log: it may be going on, or have been killed."""
    log = run / "log.txt"
    told = re.findall(
        r"^\[(.*?)\] Training  \[ *(\d+)/(\d+)\]", log.read_text() if log.is_file() else "", re.M
    )
    if not told:
        return ""
    when, iteration, total = told[-1]
    done = int(iteration) + 1
    return " It is finished." if done == int(total) else f" {done} of {total} iterations were done on {when}."


def _diagnosis_section(records: dict[int, dict[str, Any]], run: Path) -> Section:
    stops = [
        int(found[1])
        for path in (run / "post_mortem").glob("iteration_*.json")
        if (found := re.match(r"iteration_(\d+)\.", path.name))
    ]
    findings = diagnose(records, int(load_config(run / "config.yaml").dino.head_n_prototypes), stops)
    rows = tuple((("ok" if f.good else "look here"), f.question, f.answer) for f in findings)
    return Section("Is it training well?", None, None, ("", "question", "answer"), rows)


def periodic_section(run: Path) -> list[Section]:
    """What the probe said of the teacher while it was trained."""
    seen = {}
    for path in (run / "eval").glob("training_*/results.json"):
        number = re.fullmatch(r"training_(\d+)", path.parent.name)
        if number:
            seen[int(number[1])] = json.loads(path.read_text())
    if not seen:
        return []
    names = sorted({(split, name) for found in seen.values() for split in found for name in found[split]})
    rows = tuple(
        (str(iteration), *(_number(found.get(split, {}).get(name)) for split, name in names))
        for iteration, found in sorted(seen.items())
    )
    best = run / BEST_TEACHER.parent / "best.json"
    kept = json.loads(best.read_text()) if best.is_file() else None
    text = f"Kept as the best: iteration {kept['iteration']}, by {kept['metric']}." if kept else None
    columns = ("iteration", *(f"{name} ({split})" for split, name in names))
    return [Section("The teacher's features while it was trained", text, None, columns, rows)]


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "" if value is None else str(value)


def _probe_sections(run: Path) -> list[Section]:
    sections = []
    for name, title in (
        ("leave_one_out", "Probe on frozen features (leave-one-out, a plumbing check)"),
        ("probe", "Probes on frozen features"),
        ("probe_test", "Probes on frozen features, test list"),
        ("missing_modalities", "Missing modalities"),
        ("missing_modalities_test", "Missing modalities, test list"),
    ):
        path = run / "eval" / f"{name}.json"
        if not path.is_file():
            continue
        document = json.loads(path.read_text())
        if "skipped" in document:
            sections.append(Section(title, f"No probe: {document['skipped']}."))
            continue
        columns, rows = result_rows(document)
        table = tuple(tuple(row) for row in rows)
        note = f"{document['note'].rstrip('.')}." if "note" in document else ""
        text = " ".join(filter(None, (cases_text(document), note)))
        sections.append(Section(title, text or None, None, tuple(columns), table))
    return sections


def _configuration_section(run: Path) -> Section:
    cfg = load_config(run / "config.yaml")
    newest = newest_checkpoint(run)
    rows = [
        ("network", f"{cfg.student.arch}, patch {cfg.student.patch_size}"),
        ("precision", cfg.precision),
        ("batch per GPU", str(cfg.train.batch_size_per_gpu)),
        ("epochs", str(cfg.optim.epochs)),
        ("base_lr", f"{cfg.optim.base_lr:g} ({cfg.optim.scaling_rule})"),
        (
            "crops",
            f"2×{cfg.crops.global_crops_size}, {cfg.crops.local_crops_number}×{cfg.crops.local_crops_size}",
        ),
        ("data", str(cfg.train.dataset_path)),
        ("newest checkpoint", newest.name if newest else "none"),
        ("best teacher", str(BEST_TEACHER) if (run / BEST_TEACHER).is_file() else "no evaluation ran"),
    ]
    return Section("Configuration", None, None, ("key", "value"), tuple(rows))
