"""`check`: what is wrong with a data folder, before training meets it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prostate_ssl.data.layout import (
    DIAGNOSTIC_B_VALUE,
    MASK_NAME,
    REFERENCE_SEQUENCE,
    Case,
    choose_sequence,
    discover_cases,
    dwi_files,
)
from prostate_ssl.data.listed import unknown_ids, with_guesses
from prostate_ssl.data.reading import LEAST_OVERLAP, SMALL_MASK_VOXELS, WHOLE_OVERLAP
from prostate_ssl.data.tables import PatientTable
from prostate_ssl.data.volumes import Volume, read_volume, resample, same_grid
from prostate_ssl.errors import UnreadableVolumeError

ERROR, WARNING, INFO = "error", "warning", "info"
OUTLIER_RATIO = 50.0
"""A brightest voxel this many times the 99th percentile is an outlier, worth telling."""


@dataclass(frozen=True)
class Remark:
    """One thing found.

    Attributes:
        severity: error (the case cannot be used, or its files contradict each other), warning (used with a
            fallback), info.
        kind: missing-folder, missing-sequence, unreadable, files, geometry, intensities, mask, duplicate,
            b-value, list.
        subject: the case, with a file where one is meant.
        text: one sentence.
    """

    severity: str
    kind: str
    subject: str
    text: str


@dataclass
class CaseReport:
    """What was seen of one case; `files` maps sequence → file name, shape, spacing, min, max, mean."""

    case_id: str
    files: dict[str, dict[str, object]] = field(default_factory=dict)
    b_value: int | None = None
    remarks: list[Remark] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    def say(self, severity: str, kind: str, text: str, file: str = "") -> None:
        """Add a remark about this case or one of its files."""
        self.remarks.append(Remark(severity, kind, f"{self.case_id}/{file}" if file else self.case_id, text))


@dataclass(frozen=True)
class CheckReport:
    """The whole result."""

    root: Path
    cases: tuple[CaseReport, ...]
    remarks: tuple[Remark, ...]

    def count(self, severity: str) -> int:
        """Remarks of one severity."""
        return sum(remark.severity == severity for remark in self.remarks)


def check_folder(
    root: Path,
    table: PatientTable | None = None,
    sequences: Sequence[str] = (REFERENCE_SEQUENCE, "ax_adc", "ax_dwi"),
    workers: int = 2,
    progress: Callable[[], None] = lambda: None,
) -> CheckReport:
    """Check every case (of the list, where one is given).

    Args:
        root: data folder.
        table: list of patients; None takes every folder.
        sequences: what a case should have.
        workers: threads.
        progress: called once a case.

    Raises:
        ProstateError: the root is missing or empty.
    """
    found = {case.case_id: case for case in discover_cases(root)}
    remarks: list[Remark] = []
    wanted = list(found.values())
    if table is not None:
        own = f"{table.path.name}: "
        remarks += [Remark(WARNING, "list", own[:-2], text.removeprefix(own)) for text in table.warnings]
        unknown = unknown_ids(table, found)
        for name, guessed in zip(unknown, with_guesses(unknown, table.ids, found), strict=True):
            guess = guessed.removeprefix(name)
            text = f"is listed but has no folder{guess}: IDs must match folder names exactly"
            remarks.append(Remark(ERROR, "missing-folder", name, text))
        wanted = [found[name] for name in table.ids if name in found]

    def check(case: Case) -> CaseReport:
        report = check_case(case, sequences)
        progress()
        return report

    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        reports = tuple(pool.map(check, wanted))
    for report in reports:
        remarks += report.remarks
    remarks += _duplicates(reports)
    return CheckReport(root, reports, tuple(remarks))


def check_case(case: Case, sequences: Sequence[str]) -> CaseReport:
    """Read every chosen file of a case and look at geometry, intensities and mask."""
    report = CaseReport(case.case_id)
    try:
        _check_files(case, sequences, report)
    except UnreadableVolumeError as error:
        report.say(ERROR, "unreadable", error.message)
    return report


def _check_files(case: Case, sequences: Sequence[str], report: CaseReport) -> None:
    reference = _check_sequence(case, REFERENCE_SEQUENCE, report)
    for name in dict.fromkeys(sequences):
        if name == REFERENCE_SEQUENCE:
            continue
        volume = _check_sequence(case, name, report, usable=reference is not None)
        if volume is not None and reference is not None:
            _check_overlap(volume, reference, name, report)
    if reference is not None:
        _check_mask(case, reference, report)
    _check_b_values(case, report)


def _check_sequence(case: Case, name: str, report: CaseReport, usable: bool = True) -> Volume | None:
    choice = choose_sequence(case.folder, name)
    if choice.path is None:
        between = "".join(f"; {note}" for note in choice.notes)
        if name == REFERENCE_SEQUENCE:
            text = f"no {name}: a case cannot be used without its T2 image{between}"
            report.say(ERROR, "missing-sequence", text)
        else:
            outcome = ": the case is used, that modality is masked out" if usable else ""
            report.say(WARNING, "missing-sequence", f"no {name}{outcome}{between}")
        return None
    for note in choice.notes:
        report.say(INFO, "files", note)
    if choice.candidates > 1:
        report.say(INFO, "files", f"{choice.path.name} taken of {choice.candidates} diffusion files")
    if choice.b_value is not None:
        report.b_value = choice.b_value
    try:
        volume = read_volume(choice.path)
    except UnreadableVolumeError as error:
        report.say(ERROR, "unreadable", error.message, choice.path.name)
        return None
    for note in volume.notes:
        report.say(WARNING, "intensities", note, choice.path.name)
    for note in volume.place_notes:
        report.say(WARNING, "geometry", note, choice.path.name)
    if volume.array.min() < volume.array.max():  # constant ones are alike, whosever they are
        report.digests[name] = hashlib.sha256(volume.array.tobytes()).hexdigest()
    _check_geometry(volume, choice.path.name, report)
    report.files[name] = {"file": choice.path.name, **_check_intensities(volume, choice.path.name, report)}
    return volume


def _check_geometry(volume: Volume, file: str, report: CaseReport) -> None:
    depth, height, width = volume.array.shape
    if depth < 2:
        report.say(WARNING, "geometry", "a single slice", file)
    if min(height, width) < 32:
        report.say(WARNING, "geometry", f"only {height}×{width} pixels a slice", file)
    if max(volume.spacing) > 20 or min(volume.spacing) < 0.05:
        size = " × ".join(f"{value:.3g}" for value in volume.spacing)
        report.say(ERROR, "geometry", f"voxels of {size} mm are no prostate MRI: a wrong header?", file)


def _check_intensities(volume: Volume, file: str, report: CaseReport) -> dict[str, object]:
    array = volume.array
    low, high, mean = float(array.min()), float(array.max()), float(array.mean(dtype=np.float64))
    if low == high:
        report.say(WARNING, "intensities", f"constant ({low:g}): left out of training", file)
    else:
        upper = float(np.percentile(array, 99))
        if upper > 0 and high > OUTLIER_RATIO * upper:
            report.say(
                INFO, "intensities", f"outliers: maximum {high:g}, 99th percentile {upper:g} (clipped)", file
            )
    return {
        "shape": list(array.shape),
        "spacing": [round(value, 4) for value in volume.spacing],
        "min": low,
        "max": high,
        "mean": round(mean, 4),
    }


def _check_overlap(volume: Volume, reference: Volume, name: str, report: CaseReport) -> None:
    file = str(report.files[name]["file"])
    if same_grid(volume, reference):
        return
    overlap = resample(volume, reference, nearest=True)[1]
    if overlap < LEAST_OVERLAP:
        report.say(ERROR, "geometry", f"covers {overlap:.0%} of the T2 grid: another place in space", file)
        return
    if overlap < WHOLE_OVERLAP:
        text = f"covers {overlap:.0%} of the T2 grid: resampled to it, zero beyond"
        report.say(WARNING, "geometry", text, file)
    else:
        report.say(INFO, "geometry", f"own grid, resampled to the T2 grid ({overlap:.0%} covered)", file)
    if abs(volume.array.shape[0] * volume.spacing[0] - reference.array.shape[0] * reference.spacing[0]) > (
        2 * reference.spacing[0]
    ):
        text = " against ".join(
            f"{grid.array.shape[0]} slices of {grid.spacing[0]:g} mm" for grid in (volume, reference)
        )
        text += " of T2"
        report.say(WARNING, "geometry", text, file)


def _check_mask(case: Case, reference: Volume, report: CaseReport) -> None:
    choice = choose_sequence(case.folder, MASK_NAME)
    for note in choice.notes:
        report.say(INFO if choice.path else WARNING, "files", note)
    if choice.path is None:
        report.say(INFO, "mask", "no gland mask: slices are chosen anywhere, crops around the centre")
        return
    try:
        volume = read_volume(choice.path)
    except UnreadableVolumeError as error:
        report.say(ERROR, "unreadable", error.message, choice.path.name)
        return
    for note in volume.notes:
        report.say(WARNING, "mask", note, choice.path.name)
    for note in volume.place_notes:
        report.say(WARNING, "geometry", note, choice.path.name)
    values = np.unique(volume.array)
    if values.size > 2:
        report.say(
            INFO, "mask", f"{values.size} labels: everything above 0.5 counts as gland", choice.path.name
        )
    array = volume.array if same_grid(volume, reference) else resample(volume, reference, nearest=True)[0]
    voxels = int((array > 0.5).sum())
    report.files[MASK_NAME] = {"file": choice.path.name, "shape": list(volume.array.shape), "voxels": voxels}
    if voxels == 0:
        report.say(
            WARNING, "mask", "empty on the T2 grid: the case is used as one without a mask", choice.path.name
        )
    elif voxels < SMALL_MASK_VOXELS:
        report.say(WARNING, "mask", f"only {voxels} voxels", choice.path.name)
    elif voxels > 0.5 * array.size:
        report.say(WARNING, "mask", "covers more than half of the image", choice.path.name)


def _check_b_values(case: Case, report: CaseReport) -> None:
    files = dwi_files(case.folder)
    if not files:
        return
    if report.b_value is None:
        report.say(INFO, "b-value", "the diffusion file's name gives no b-value")
    elif report.b_value < DIAGNOSTIC_B_VALUE:
        report.say(WARNING, "b-value", f"highest b-value is {report.b_value}; 800 s/mm² or more is wanted")
    values = [file.b_value for file in files if not file.computed]
    if len(set(values)) != len(values):
        report.say(
            WARNING, "b-value", f"two files of one b-value: {sorted(file.path.name for file in files)}"
        )


def _duplicates(reports: Sequence[CaseReport]) -> list[Remark]:
    """The same image under two patients (an error: train and test may share it) or twice in one."""
    seen: dict[str, tuple[str, str]] = {}
    remarks = []
    for report in reports:
        for name, digest in report.digests.items():
            if digest not in seen:
                seen[digest] = (report.case_id, name)
                continue
            other, other_name = seen[digest]
            same = other == report.case_id
            text = f"{name} is the same image as {other_name}" + ("" if same else f" of {other}")
            remarks.append(Remark(WARNING if same else ERROR, "duplicate", report.case_id, text))
    return remarks
