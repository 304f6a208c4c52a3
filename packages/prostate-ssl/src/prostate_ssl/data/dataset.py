"""Map-style datasets under their published names: evaluation samples, labels, shares."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from prostate_ssl.augment.pipeline import normalise
from prostate_ssl.augment.resize import resize_window
from prostate_ssl.data.dataset_string import DatasetSpec, parse_dataset_string
from prostate_ssl.data.layout import MASK_NAME, Case, choose_sequence, chosen_files, discover_cases
from prostate_ssl.data.listed import listed_cases
from prostate_ssl.data.preparing import PreparedCase, read_prepared
from prostate_ssl.data.tables import (
    LABEL_COLUMN,
    MOST_CLASSES,
    PatientTable,
    class_number,
    find_split_csv,
    read_patient_table,
)
from prostate_ssl.errors import ProstateError, UnreadableVolumeError
from prostate_ssl.randomness import Draw, host_uniform

logger = logging.getLogger("prostate_ssl")

EVALUATION_SHARE = 0.5
"""Side of an evaluation crop, as a share of the slice's shorter side."""


@dataclass(frozen=True)
class EvaluationSample:
    """One case as evaluation sees it: a square around the gland in one axial slice.

    Attributes:
        image: (M, S, S) float32, normalised; (M + 1, S, S) with `append_label_mask`.
        present: (M,) bool.
        label: class, or -1 where there is none or it is not used.
        mask: (S, S) bool gland mask in the same window (all False without one).
        case_id: the folder's name.
        slice_index: the slice on the T2 grid.
    """

    image: torch.Tensor
    present: torch.Tensor
    label: int
    mask: torch.Tensor
    case_id: str
    slice_index: int


def nested_share(case_ids: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Choose a share of cases; a smaller share is always contained in a larger one.

    Returns:
        (N,) bool with round(N · share) True.
    """
    order = np.argsort([_name_draw(name, seed) for name in case_ids], kind="stable")
    chosen = np.zeros(len(case_ids), dtype=bool)
    chosen[order[: round(len(case_ids) * share)]] = True
    return chosen


def _name_draw(name: str, seed: int) -> float:
    return float(host_uniform(seed, int(Draw.SHARE), *name.encode()))


class ProstateDataset:
    """Cases of one split. `dataset[i]` is `(image, label)`; `sample(i)` says more.

    Attributes:
        spec: the parsed dataset string.
        cases: folders, in the order of the list (without a list: by name).
        labels: (N,) int64, -1 where unknown.
        label_used: (N,) bool, the nested `percentage_labels` share for ProstateSupervised.
        mask_shown: (N,) bool, the same for masks in ProstateSSL.
        warnings: what the lists gave cause to say.
        notes: case → fallbacks that were taken while preparing it, of the cases prepared so far.
        label_fault: why labels cannot be relied upon, "" where they can; of ProstateSSL they are left out,
            and it is said among the warnings (see `require_labels`).
    """

    def __init__(self, spec: DatasetSpec, beside: Path | None = None) -> None:
        self.spec = spec
        self.warnings: list[str] = []
        self.notes: dict[str, tuple[str, ...]] = {}
        self.label_fault = ""
        self.cases, table = self._list_cases(beside)
        self.labels = self._read_labels(table)
        everything = np.ones(len(self.cases), dtype=bool)
        supervised = spec.kind == "ProstateSupervised"
        self.mask_shown = everything if supervised else self._share_of(self._with_mask())
        self.label_used = self._share_of(self.labels >= 0) if supervised else everything
        for warning in self.warnings:
            logger.warning(warning)
        self._prepared = lru_cache(maxsize=4)(self.prepare)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of the image's channels."""
        return self.spec.mri_sequences

    @property
    def case_ids(self) -> list[str]:
        """Folder names, in order."""
        return [case.case_id for case in self.cases]

    def _list_cases(self, beside: Path | None) -> tuple[list[Case], PatientTable | None]:
        root = self.spec.root
        found = discover_cases(root)
        if self.spec.split_csv is None:
            return found, self._labels_beside()
        table = read_patient_table(find_split_csv(self.spec.split_csv, root, beside))
        cases, said = listed_cases(table, found)
        self.warnings += (*table.warnings, *said)
        return cases, table

    def _labels_beside(self) -> PatientTable | None:
        path = self.spec.root / "labels.csv"
        try:
            table = read_patient_table(path) if path.is_file() else None
        except ProstateError as error:  # nobody named it, and it may be about something else
            self._leave_labels_out(error.message, "no labels are taken from it")
            return None
        if table is not None and self.spec.kind == "ProstateSupervised":  # nobody else uses its labels
            self.warnings += table.warnings
        return table

    def _leave_labels_out(self, fault: str, consequence: str) -> None:
        self.label_fault = fault
        if self.spec.kind == "ProstateSupervised":
            self.require_labels()
        self.warnings.append(f"{fault.rstrip('.')}; {consequence}")

    def require_labels(self) -> None:
        """For tasks that need labels of whatever kind of data set.

        Raises:
            ProstateError: a label is no class number, or the list that was found cannot be read.
        """
        if self.label_fault:
            raise ProstateError(self.label_fault)

    def _read_labels(self, table: PatientTable | None) -> np.ndarray:
        labels = np.full(len(self.cases), -1, dtype=np.int64)
        supervised = self.spec.kind == "ProstateSupervised"
        if self.spec.split_csv is not None and table is not None and table.labels is None:
            table = self._instead_of(table) or table
        if table is None or table.labels is None:
            if supervised:
                where = table.path if table else f"{self.spec.root / 'labels.csv'}"
                raise ProstateError(f"ProstateSupervised needs labels: {where} has no column 'label'.")
            return labels
        known = dict(zip(table.ids, table.labels, strict=True))
        odd: list[str] = []
        for row, case in enumerate(self.cases):
            text = known.get(case.case_id, "")
            number = class_number(text) if text else -1
            if number is None:
                odd.append(f"the label '{text}' of {case.case_id}")
            else:
                labels[row] = number
        if odd:
            more = f" (as {len(odd) - 1} more)" if odd[1:] else ""
            self._leave_labels_out(
                f"{table.path}: {odd[0]} is no class number (0, 1, 2, … below {MOST_CLASSES}; empty: "
                f"unknown){more}.",
                "it is left out" if len(odd) == 1 else "they are left out",
            )
        if supervised and not (labels >= 0).any():
            raise ProstateError(f"No case of this split has a label in {table.path}.")
        return labels

    def _instead_of(self, named: PatientTable) -> PatientTable | None:
        """`labels.csv` of the root for a named list without labels; if that has other columns, it is said.

        Raises:
            ProstateError: labels are needed, and one of the other columns may hold them.
        """
        columns = ", ".join((named.column, *named.others))
        has = f"{named.path} has no column '{LABEL_COLUMN}' (it has: {columns})"
        own = f"name the column that holds the labels '{LABEL_COLUMN}'"
        path = self.spec.root / "labels.csv"
        if named.others and self.spec.kind == "ProstateSupervised":
            raise ProstateError(
                f"{has}. Either {own}, or, for the labels of {path}, drop all columns but '{named.column}'.",
                exit_code=2,
            )
        beside = self._labels_beside()
        if named.others and beside is not None and beside.labels is not None:
            self.warnings.append(f"{has}: labels are taken from {path}; if they are not those, {own}")
        return beside

    def _with_mask(self) -> np.ndarray:
        return np.array([_has_mask(case) for case in self.cases])

    def _share_of(self, eligible: np.ndarray) -> np.ndarray:
        chosen = np.zeros(len(self.cases), dtype=bool)
        rows = np.flatnonzero(eligible)
        chosen[rows] = nested_share(
            [self.cases[row].case_id for row in rows], self.spec.percentage_labels, self.spec.seed
        )
        return chosen

    def prepare(self, index: int) -> PreparedCase:
        """Read and prepare a case from its files, keeping nothing.

        Raises:
            UnreadableVolumeError: the case cannot be used.
        """
        case = read_prepared(self.cases[index], self.modalities, self.spec.prefer_computed_dwi)
        if case.notes:
            self.notes[case.case_id] = case.notes
        return case

    def prepared(self, index: int) -> PreparedCase:
        """The whole prepared case (the last few are kept in memory).

        Raises:
            UnreadableVolumeError: the case cannot be used.
        """
        return self._prepared(index)

    def gland_or_none(self, index: int) -> np.ndarray | None:
        """(D, H, W) bool, or None where the case has no mask or may not show it."""
        case = self.prepared(index)
        if not case.has_mask or not self.mask_shown[index]:
            return None
        return case.array[-1] > 0.5

    def evaluation_slice(self, index: int) -> int:
        """The axial slice with most of the gland; without a mask the middle one."""
        gland = self.gland_or_none(index)
        depth = self.prepared(index).array.shape[1]
        return depth // 2 if gland is None else int(gland.sum(axis=(1, 2)).argmax())

    def files_key(self, index: int) -> str:
        """Changes when a file that the case is made of does (its name, size or time): 16 digits."""
        case, spec = self.cases[index], self.spec
        digest = hashlib.blake2b(digest_size=8)
        for name, path in chosen_files(case.folder, self.modalities, spec.prefer_computed_dwi).items():
            stat = path.stat()
            digest.update(f"{name} {path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def evaluation_window(self, index: int, around_gland: bool = True) -> tuple[int, int, int]:
        """(top, left, side) of the square around the gland's centroid; without a mask, around the centre."""
        gland = self.gland_or_none(index) if around_gland else None
        height, width = self.prepared(index).array.shape[2:]
        side = max(1, round(EVALUATION_SHARE * min(height, width)))
        centre = (height / 2, width / 2)
        if gland is not None:
            rows, columns = np.nonzero(gland.any(axis=0))
            centre = (float(rows.mean()) + 0.5, float(columns.mean()) + 0.5)
        top, left = (
            int(np.clip(round(c - side / 2), 0, s - side))
            for c, s in zip(centre, (height, width), strict=True)
        )
        return top, left, side

    def gland_beyond_window(self, index: int) -> float:
        """Gland that the window around the centre leaves out, as a multiple of the window's area."""
        gland = self.gland_or_none(index)
        if gland is None:
            return 0.0
        top, left, side = self.evaluation_window(index, around_gland=False)
        inside = gland[:, top : top + side, left : left + side]
        return float(gland.sum() - inside.sum()) / side**2

    def sample(
        self,
        index: int,
        slice_index: int | None = None,
        size: int | None = None,
        *,
        around_gland: bool = True,
    ) -> EvaluationSample:
        """Cut one axial slice for evaluation.

        Args:
            index: position of the case.
            slice_index: axial slice; by default the one with most of the gland, else the middle one.
            size: side S of the result; by default the dataset string's `spatial_size`.
            around_gland: the window follows the gland's mask, where there is one.
        """
        case = self.prepared(index)
        at = self.evaluation_slice(index) if slice_index is None else slice_index
        size = size or self.spec.spatial_size
        top, left, side = self.evaluation_window(index, around_gland)
        window = torch.from_numpy(case.array[:, at, top : top + side, left : left + side].astype(np.float32))
        resized = resize_window(window, size).clamp_(0, 1)
        image = normalise(resized[:-1])
        mask = resized[-1] > 0.5
        if not self.mask_shown[index]:
            mask = torch.zeros_like(mask)
        if self.spec.append_label_mask:
            image = torch.cat([image, mask[None].float()])
        label = int(self.labels[index]) if self.label_used[index] else -1
        return EvaluationSample(image, torch.from_numpy(case.present.copy()), label, mask, case.case_id, at)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        sample = self.sample(index % len(self))
        return sample.image, sample.label


def _has_mask(case: Case) -> bool:
    try:
        return choose_sequence(case.folder, MASK_NAME).path is not None
    except UnreadableVolumeError:
        return False  # refused by name when it is read


def make_dataset(
    *, dataset_str: str, percentage_labels: float | None = None, beside: Path | None = None
) -> ProstateDataset:
    """Make the dataset that a dataset string describes.

    Args:
        dataset_str: `ProstateSSL:split=TRAIN:root=…` or `ProstateSupervised:…`.
        percentage_labels: overrides the string's (0–1).
        beside: folder of the configuration file, where a relative `split_csv` is looked for too.

    Raises:
        ProstateError: a bad string, no data, no list, no labels where labels are needed.
    """
    spec = parse_dataset_string(dataset_str)
    if percentage_labels is not None:
        if not 0.0 <= percentage_labels <= 1.0:
            raise ProstateError(
                f"percentage_labels={percentage_labels} should lie between 0 and 1.", exit_code=2
            )
        spec = replace(spec, percentage_labels=float(percentage_labels))
    return ProstateDataset(spec, beside)
