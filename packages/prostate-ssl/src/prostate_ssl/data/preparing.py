"""From intensities to what training reads: clipped, scaled to 0–1, cropped to the body, in half precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prostate_ssl.data.layout import Case
from prostate_ssl.data.order import cut_plane, gland_counts
from prostate_ssl.data.reading import CaseVolumes, read_case
from prostate_ssl.errors import ProstateError, UnreadableVolumeError

BODY_MARGIN_MM = 6.0


@dataclass(frozen=True)
class Preparation:
    """Settings of the preparation; part of the cache's key.

    Attributes:
        lower, upper: percentiles of the volume that become 0 and 1.
        crop_to_body: cut away the air around the patient.
    """

    lower: float = 1.0
    upper: float = 99.0
    crop_to_body: bool = True


@dataclass(frozen=True)
class PreparedCase:
    """One case as training reads it.

    Attributes:
        case_id: the folder's name.
        array: (M + 1, D, H, W) float16; modalities in 0–1 (zeros where absent), last the gland mask (0 or 1;
            zeros without one).
        present: (M,) bool.
        has_mask: whether the case has a usable gland mask.
        spacing: voxel size (D, H, W) in millimetres.
        origin: (d, h, w) index on the T2 grid of the array's first voxel.
        notes: fallbacks taken while reading and preparing.
    """

    case_id: str
    array: np.ndarray
    present: np.ndarray
    has_mask: bool
    spacing: tuple[float, float, float]
    origin: tuple[int, int, int]
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(M + 1, D, H, W)."""
        return self.array.shape

    def whole(self) -> np.ndarray:
        """(M + 1, D, H, W) float16."""
        return self.array

    def plane(self, axis: int, index: int) -> np.ndarray:
        """(M + 1, rows, columns) float16: one slice, see `cut_plane`."""
        return cut_plane(self.array, axis, index)

    def gland_counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Gland voxels in every axial, coronal and sagittal slice; None without a mask."""
        return gland_counts(self.array[-1] > 0.5) if self.has_mask else None


def percentile_limits(volume: np.ndarray, lower: float, upper: float) -> tuple[float, float]:
    """Two percentiles of a volume's voxels, by linear interpolation (as `numpy.percentile`)."""
    low, high = np.percentile(volume, [lower, upper])
    return float(low), float(high)


def scale_to_unit(volume: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Map the percentiles to 0 and 1 and clip; a volume without contrast there is scaled by its extremes.

    Returns:
        float32, the volume's shape; zeros for a constant volume.
    """
    low, high = percentile_limits(volume, lower, upper)
    if high <= low:
        low, high = float(volume.min()), float(volume.max())
    if high <= low:
        return np.zeros(volume.shape, dtype=np.float32)
    return np.clip((volume - np.float32(low)) * np.float32(1.0 / (high - low)), 0.0, 1.0)


def body_box(volume: np.ndarray, spacing: tuple[float, float, float]) -> tuple[slice, slice]:
    """The rectangle (rows, columns) that holds the patient in every slice, with a margin.

    Otsu's threshold (1979) on the mean over slices parts body from air; a box that would leave less than a
    quarter of the slice is not trusted and the whole slice is kept.
    """
    height, width = volume.shape[1:]
    mean = volume.mean(axis=0)
    body = mean > 0.5 * _otsu(mean)
    rows, columns = np.flatnonzero(body.mean(axis=1) > 0.02), np.flatnonzero(body.mean(axis=0) > 0.02)
    if rows.size == 0 or columns.size == 0:
        return slice(0, height), slice(0, width)
    margin_h, margin_w = (int(np.ceil(BODY_MARGIN_MM / size)) for size in spacing[1:])
    box = (
        slice(max(0, int(rows[0]) - margin_h), min(height, int(rows[-1]) + 1 + margin_h)),
        slice(max(0, int(columns[0]) - margin_w), min(width, int(columns[-1]) + 1 + margin_w)),
    )
    area = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
    return box if area >= 0.25 * height * width else (slice(0, height), slice(0, width))


def _otsu(image: np.ndarray) -> float:
    # In float32 the edges of 128 bins fall together where a large offset hides the contrast.
    counts, edges = np.histogram(image.astype(np.float64), bins=128)
    centres = 0.5 * (edges[:-1] + edges[1:])
    below = np.cumsum(counts)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centres[int(np.argmax(np.nan_to_num(between)))])


def prepare_case(volumes: CaseVolumes, settings: Preparation | None = None) -> PreparedCase:
    """Clip each volume at its percentiles, scale to 0–1, crop to the body, convert to half precision."""
    settings = settings or Preparation()
    present = volumes.present
    count, depth, height, width = volumes.modalities.shape
    box: tuple[slice, slice] = (slice(0, height), slice(0, width))
    if settings.crop_to_body:
        box = body_box(volumes.modalities[int(np.flatnonzero(present)[0])], volumes.spacing)
        if volumes.mask is not None:
            box = _including(box, volumes.mask)
    rows, columns = box
    shape = (count + 1, depth, rows.stop - rows.start, columns.stop - columns.start)
    array = np.zeros(shape, dtype=np.float16)
    for row in np.flatnonzero(present):
        array[row] = scale_to_unit(volumes.modalities[row], settings.lower, settings.upper)[:, rows, columns]
    if volumes.mask is not None:
        array[count] = volumes.mask[:, rows, columns]
    return PreparedCase(
        volumes.case_id, array, present, volumes.mask is not None, volumes.spacing,
        (0, rows.start, columns.start), volumes.notes,
    )  # fmt: skip


def read_prepared(
    case: Case,
    sequences: Sequence[str],
    prefer_computed_dwi: bool = False,
    settings: Preparation | None = None,
) -> PreparedCase:
    """Read a case from its files and prepare it, see `read_case` and `prepare_case`.

    Raises:
        UnreadableVolumeError: the case cannot be used, whatever is wrong with it: one odd case ends no work
            on the others.
    """
    try:
        return prepare_case(read_case(case, sequences, prefer_computed_dwi), settings)
    except (ProstateError, MemoryError):
        raise
    except Exception as error:
        raise UnreadableVolumeError(
            f"{case.folder}: cannot be prepared ({type(error).__name__}: {error})."
        ) from error


def _including(box: tuple[slice, slice], mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=(0, 2))), np.flatnonzero(mask.any(axis=(0, 1)))
    return (
        slice(min(box[0].start, int(rows[0])), max(box[0].stop, int(rows[-1]) + 1)),
        slice(min(box[1].start, int(columns[0])), max(box[1].stop, int(columns[-1]) + 1)),
    )
