"""Features of a whole data set on the disk: a table, and the tokens of each case."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from prostate_ssl.data import ProstateDataset
from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.backbone import Backbone
from prostate_ssl.evaluation.features import model_present, model_side, slice_tokens
from prostate_ssl.files import write_atomically, write_tensors
from prostate_ssl.training.session import Session


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Attributes:
        table: path of the CSV table.
        made, kept: cases computed now, and cases that were there; of all ranks.
        refused: (case, reason) of this rank's unusable cases.
    """

    table: Path
    made: int
    kept: int
    refused: tuple[tuple[str, str], ...]


def extract(
    backbone: Backbone, dataset: ProstateDataset, out: Path, session: Session, *, slices: str = "one"
) -> Extraction:
    """Write `out/tokens/CASE.safetensors` and `out/features.csv`; cases that are there are kept.

    Each file holds cls (S, D), patches (S, M, N, D) and slices (S,) of S slices. The table has a row
    per case: case_id, label, then CLS and mean patch token, averaged over the slices.

    Args:
        backbone: the frozen network; files made with other weights, or of other images, are made anew.
        dataset: the cases.
        out: folder.
        session: ranks share the cases; rank 0 writes the table when all are done.
        slices: "one" (the evaluation slice), "gland" (all slices with gland) or "all".
    """
    tokens = out / "tokens"
    tokens.mkdir(parents=True, exist_ok=True)
    for left in tokens.glob(".*.tmp") if session.is_main else ():  # of a call that was killed
        left.unlink(missing_ok=True)
    if session.world_size > 1:
        torch.distributed.barrier()
    made_with = {"weights": backbone.fingerprint, "slices": slices, "side": str(model_side(backbone.model))}
    made = kept = 0
    refused = []
    for index in range(session.rank, len(dataset), session.world_size):
        path = tokens / f"{dataset.case_ids[index]}.safetensors"
        stamp = made_with | {"files": dataset.files_key(index)}
        if _is_current(path, stamp):
            kept += 1
            continue
        try:
            tensors = case_tokens(backbone, dataset, index, slices)
        except ProstateError as error:
            refused.append((dataset.case_ids[index], str(error)))
            continue
        write_tensors(path, tensors, stamp)
        made += 1
    if session.world_size > 1:  # also waits until every rank has written its share
        counts = torch.tensor([made, kept], device=session.device)
        torch.distributed.all_reduce(counts)
        made, kept = counts.tolist()
    table = out / "features.csv"
    if session.is_main:
        _write_table(table, dataset, tokens, made_with)
        write_atomically(
            out / "features.json", (json.dumps(made_with | {"from": backbone.weights.name}) + "\n").encode()
        )
    return Extraction(table, made, kept, tuple(refused))


def _is_current(path: Path, stamp: dict[str, str]) -> bool:
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            return bool(file.metadata() == stamp)
    except (OSError, ValueError, SafetensorError):  # a damaged file is made anew
        return False


def case_tokens(
    backbone: Backbone, dataset: ProstateDataset, index: int, slices: str = "one"
) -> dict[str, torch.Tensor]:
    """Tokens of one case: cls (S, D), patches (S, M, N, D), slices (S,)."""
    chosen = choose_slices(dataset, index, slices)
    samples = [dataset.sample(index, slice_index=z, size=model_side(backbone.model)) for z in chosen]
    cls, patches = [], []
    for sample in samples:
        image = sample.image[None]
        c, p = slice_tokens(backbone.model, image, model_present(sample.present, image.shape[1])[None])
        cls.append(c)
        patches.append(p)
    return {"cls": torch.cat(cls), "patches": torch.cat(patches), "slices": torch.tensor(chosen)}


def choose_slices(dataset: ProstateDataset, index: int, slices: str) -> list[int]:
    """Axial slices of a case: the evaluation slice, those with gland (else all), or all."""
    if slices == "one":
        return [dataset.evaluation_slice(index)]
    depth = dataset.prepared(index).array.shape[1]
    gland = dataset.gland_or_none(index) if slices == "gland" else None
    if gland is None:
        return list(range(depth))
    return np.flatnonzero(gland.any(axis=(1, 2))).tolist()


def _write_table(path: Path, dataset: ProstateDataset, tokens: Path, made_with: dict[str, str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header_done = False
    for index, case in enumerate(dataset.case_ids):
        file = tokens / f"{case}.safetensors"
        stamp = made_with | {"files": dataset.files_key(index)}
        if not _is_current(file, stamp):  # a case that cannot be used now may have a file of other weights
            continue
        with safe_open(file, "pt") as content:
            cls = content.get_tensor("cls").mean(0)
            patch = content.get_tensor("patches").mean((0, 1, 2))
        if not header_done:
            names = [f"cls_{i}" for i in range(len(cls))] + [f"patch_{i}" for i in range(len(patch))]
            writer.writerow(["case_id", "label", *names])
            header_done = True
        label = int(dataset.labels[index])
        values = [f"{v:.7g}" for v in torch.cat([cls, patch]).tolist()]
        writer.writerow([case, label if label >= 0 else "", *values])
    write_atomically(path, text.getvalue().encode())


def read_table(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Case IDs, labels (N,) (−1 without) and vectors (N, 2·D) of a `features.csv`."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    labels = np.array([int(row[1]) if row[1] else -1 for row in rows], np.int64)
    return [row[0] for row in rows], labels, np.array([row[2:] for row in rows], np.float32)
