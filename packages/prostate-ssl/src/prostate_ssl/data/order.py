"""Which case, axis and slice stands at which place: pure functions of (seed, place)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from prostate_ssl.randomness import Draw, host_key, host_permutation, host_uniform

AXIAL, CORONAL, SAGITTAL = 0, 1, 2


@dataclass(frozen=True)
class CaseFacts:
    """What choosing a slice needs to know of a prepared case.

    Attributes:
        shape: (D, H, W).
        gland: for each axis the gland's voxels in every slice (int64), or None without a mask to show.
    """

    shape: tuple[int, int, int]
    gland: tuple[np.ndarray, np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class SliceRules:
    """How a slice is chosen; the fields are those of the dataset string."""

    random_axes: bool
    random_slices: bool
    min_roi_voxels: int = 1


class SampleOrder:
    """The endless order of cases: every epoch a fresh permutation of all of them.

    Slot s of the whole run belongs to epoch s // N. Ranks and batches only cut this one order: step t of W
    ranks with batches of B takes slots t·W·B … (t + 1)·W·B - 1, rank r its r-th run of B.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._permutation = lru_cache(maxsize=4)(
            lambda epoch: host_permutation(count, seed, epoch, int(Draw.ORDER))
        )

    def at(self, slot: int) -> tuple[int, int]:
        """(epoch, case) of a slot."""
        epoch, place = divmod(slot, self.count)
        return epoch, int(self._permutation(epoch)[place])

    def case_at(self, epoch: int, place: int) -> int:
        """The case at a place of an epoch's order; places wrap around."""
        return int(self._permutation(epoch)[place % self.count])


def gland_counts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels of a (D, H, W) bool mask in every axial, coronal and sagittal slice."""
    counts = mask.astype(np.int64)
    return counts.sum(axis=(1, 2)), counts.sum(axis=(0, 2)), counts.sum(axis=(0, 1))


def sample_key(seed: int, epoch: int, case: int) -> np.ndarray:
    """The key of everything that is drawn for one case in one epoch; uint64 ()."""
    return host_key(seed, epoch, case)


def choose_slice(facts: CaseFacts, rules: SliceRules, seed: int, epoch: int, case: int) -> tuple[int, int]:
    """Choose (axis, index) for training.

    Random slices: one with at least `min_roi_voxels` of gland; if there is none, the one with most; without
    a mask any. Otherwise the slice with most gland; without a mask the middle one.
    """
    axis = AXIAL
    if rules.random_axes:
        axis = int(host_uniform(seed, epoch, case, int(Draw.AXIS)) * 3)
    size = facts.shape[axis]
    counts = facts.gland[axis] if facts.gland is not None else None
    if not rules.random_slices:
        return axis, size // 2 if counts is None else int(counts.argmax())
    draw = float(host_uniform(seed, epoch, case, int(Draw.SLICE)))
    if counts is None:
        return axis, int(draw * size)
    enough = np.flatnonzero(counts >= max(1, rules.min_roi_voxels))
    if enough.size == 0:
        return axis, int(counts.argmax())
    return axis, int(enough[int(draw * enough.size)])


def cut_plane(array: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A slice of a (C, D, H, W) array as (C, rows, columns): axial as it lies, the others head up."""
    if axis == AXIAL:
        return array[:, index]
    if axis == CORONAL:
        return array[:, ::-1, index, :]
    return array[:, ::-1, :, index]
