"""Reading one case: every modality on the grid of its T2 image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prostate_ssl.data.layout import MASK_NAME, REFERENCE_SEQUENCE, Case, choose_sequence
from prostate_ssl.data.volumes import Volume, read_volume, resample, same_grid
from prostate_ssl.errors import UnreadableVolumeError

LEAST_OVERLAP = 0.05
"""A modality that covers less of the T2 grid than this lies elsewhere, and is taken as missing."""
WHOLE_OVERLAP = 0.75
"""One that covers less than this is used with a remark: it is zero beyond."""
SMALL_MASK_VOXELS = 200
"""A gland mask of fewer voxels is used with a remark."""


@dataclass(frozen=True)
class CaseVolumes:
    """One case on its T2 grid.

    Attributes:
        case_id: the folder's name.
        modalities: (M, D, H, W) float32 intensities as in the files; zeros where absent.
        present: (M,) bool.
        mask: (D, H, W) bool gland mask, or None where the case has none that can be used.
        spacing: voxel size (D, H, W) in millimetres.
        affine: (4, 4) index (w, h, d) → RAS millimetres.
        notes: fallbacks that were taken, one sentence each.
    """

    case_id: str
    modalities: np.ndarray
    present: np.ndarray
    mask: np.ndarray | None
    spacing: tuple[float, float, float]
    affine: np.ndarray
    notes: tuple[str, ...]


def _read_reference(case: Case) -> tuple[Volume, tuple[str, ...]]:
    choice = choose_sequence(case.folder, REFERENCE_SEQUENCE)
    if choice.path is None:
        raise UnreadableVolumeError(
            f"{case.folder}: no {REFERENCE_SEQUENCE}.nii or .nii.gz, whose grid every case needs."
            + "".join(f" {note}." for note in choice.notes)
        )
    return read_volume(choice.path), choice.notes


def _on_reference(volume: Volume, reference: Volume, nearest: bool) -> tuple[np.ndarray, float]:
    if same_grid(volume, reference):
        return volume.array, 1.0
    return resample(volume, reference, nearest)


def _read_mask(case: Case, reference: Volume) -> tuple[np.ndarray | None, tuple[str, ...]]:
    choice = choose_sequence(case.folder, MASK_NAME)
    if choice.path is None:
        return None, choice.notes
    try:
        volume = read_volume(choice.path)
    except UnreadableVolumeError as error:
        return None, (f"mask unusable, the case goes on without it: {error.message}",)
    mask = _on_reference(volume, reference, nearest=True)[0] > 0.5
    if not mask.any():
        return None, (f"{choice.path.name} is empty on the T2 grid: the case goes on without a mask",)
    small = (f"{choice.path.name} has only {mask.sum()} voxels",) if mask.sum() < SMALL_MASK_VOXELS else ()
    return mask, (*choice.notes, *volume.notes, *volume.place_notes, *small)


def read_case(case: Case, sequences: Sequence[str], prefer_computed_dwi: bool = False) -> CaseVolumes:
    """Read the named sequences and the gland mask onto the grid of the T2 image.

    A missing, damaged, constant or misplaced sequence other than T2 is left out: `present` says so, `notes`
    why.

    Raises:
        UnreadableVolumeError: the T2 image is missing or damaged, or no named sequence is usable.
    """
    reference, reference_notes = _read_reference(case)
    notes = [*reference_notes, *reference.notes, *reference.place_notes]
    modalities = np.zeros((len(sequences), *reference.array.shape), dtype=np.float32)
    present = np.zeros(len(sequences), dtype=bool)
    for row, name in enumerate(sequences):
        if name == REFERENCE_SEQUENCE:
            modalities[row], present[row] = reference.array, bool(np.ptp(reference.array) > 0)
            if not present[row]:
                notes.append(f"{name} left out: it is constant")
            continue
        choice = choose_sequence(case.folder, name, prefer_computed_dwi)
        if choice.path is None:
            notes += [f"{name} is missing", *choice.notes]
            continue
        try:
            volume = read_volume(choice.path)
        except UnreadableVolumeError as error:
            notes.append(f"{name} left out: {error.message}")
            continue
        if float(np.ptp(volume.array)) == 0.0:
            notes.append(f"{name} left out: {choice.path.name} is constant")
            continue
        array, overlap = _on_reference(volume, reference, nearest=False)
        if overlap < LEAST_OVERLAP:
            notes.append(f"{name} left out: {choice.path.name} covers {overlap:.0%} of the T2 grid")
            continue
        if overlap < WHOLE_OVERLAP:
            notes.append(f"{choice.path.name} covers {overlap:.0%} of the T2 grid, zero beyond")
        notes += [*choice.notes, *volume.notes, *volume.place_notes]
        modalities[row], present[row] = array, True
    if not present.any():
        raise UnreadableVolumeError(f"{case.folder}: none of {', '.join(sequences)} can be used.")
    mask, mask_notes = _read_mask(case, reference)
    return CaseVolumes(
        case.case_id, modalities, present, mask, reference.spacing, reference.affine, (*notes, *mask_notes)
    )
