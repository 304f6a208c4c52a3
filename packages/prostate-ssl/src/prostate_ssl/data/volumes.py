"""Volumes in millimetres: reading NIfTI, orientation, resampling onto another grid."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage

from prostate_ssl.errors import UnreadableVolumeError

GRID_TOLERANCE_MM = 1e-2
"""Two grids whose corners lie closer than this are one grid."""
FORMS_TOLERANCE_MM = 0.5
"""Two orientations of one header whose corners lie closer differ by rounding (0.04 mm in real files)."""
LEAST_SPACING_MM, LARGEST_SPACING_MM = 1e-3, 1e3
LARGEST_PLACE_MM = 1e5
LARGEST_INTENSITY = 1e18
MOST_VOXELS = 1 << 30
# With its header's size every NIfTI file begins: 348 bytes in version 1, 540 in version 2.
_HEADER_SIZES = {size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}

# It writes what it mends in damaged headers to the terminal; what matters becomes a remark or a refusal.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Volume:
    """An image in space.

    Attributes:
        array: (D, H, W) float32; D runs to the head, H to the back, W to the patient's left.
        affine: (4, 4) float64, voxel index (w, h, d) → RAS millimetres.
        notes: what was mended while reading (NaN replaced, a 4-D file of one volume, …).
        place_notes: why it may lie elsewhere: an orientation that is missing or given twice.
    """

    array: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...] = ()
    place_notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (D, H, W) in millimetres."""
        w, h, d = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)


def to_lps_order(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flip and transpose voxels, so that the axes run nearest to left, back, head.

    Args:
        data: (i, j, k), any order of axes.
        affine: (4, 4) index → RAS millimetres.

    Returns:
        (D, H, W) view and the affine of its (w, h, d) index.
    """
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(("L", "P", "S")))
    turned = apply_orientation(data, turn)
    return turned.transpose(2, 1, 0), affine @ inv_ornt_aff(turn, data.shape)


def _three_dimensional(data: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim == 3 and min(data.shape) >= 1:
        return data, ()
    if data.ndim == 4:
        note = f"{path.name} is 4-D with {data.shape[3]} volumes: the last is used"
        return data[..., -1], (note,)
    raise UnreadableVolumeError(f"{path}: expected a 3-D image, found shape {data.shape}.")


def _finite(array: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    # Squares of larger numbers overflow; no image has them.
    finite = np.abs(array) < LARGEST_INTENSITY
    if finite.all():
        return array, ()
    bad = int(array.size - finite.sum())
    if bad == array.size:
        raise UnreadableVolumeError(f"{path}: no finite voxel.")
    array = np.where(finite, array, np.float32(0))
    return array, (f"{path.name}: {bad} NaN or infinite voxels set to 0",)


def check_voxels(shape: tuple[int, ...], dtype: np.dtype, path: Path) -> None:
    """Refuse what a header announces before it is read: no intensities, no size, or far too many voxels.

    Raises:
        UnreadableVolumeError: complex or RGB voxels, a side of 0 or less, more than `MOST_VOXELS`.
    """
    if dtype.kind not in "iufb":
        raise UnreadableVolumeError(f"{path}: voxels of type {dtype} are not intensities.")
    if min(shape, default=0) < 1 or math.prod(shape) > MOST_VOXELS:
        size = "×".join(str(side) for side in shape)
        raise UnreadableVolumeError(f"{path}: {size} voxels are no MRI: a wrong header?")


def volume_of(data: np.ndarray, affine: np.ndarray, path: Path) -> Volume:
    """Voxels and matrix as a file gives them → a volume in left, back, head order.

    Args:
        data: (i, j, k) or (i, j, k, n) float32; of several volumes the last is used.
        affine: (4, 4) index → RAS millimetres.
        path: for messages.

    Raises:
        UnreadableVolumeError: not 3-D, without a usable orientation, without one finite voxel.
    """
    affine = np.asarray(affine, dtype=np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0) if np.isfinite(affine).all() else np.zeros(3)
    if not ((spacing > LEAST_SPACING_MM) & (spacing < LARGEST_SPACING_MM)).all():
        raise UnreadableVolumeError(f"{path}: its voxels have no usable size ({_millimetres(spacing)}).")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3 or np.abs(affine).max() > LARGEST_PLACE_MM:
        raise UnreadableVolumeError(f"{path}: its orientation matrix is singular or lies far away.")
    data, notes = _three_dimensional(data, path)
    data, mended = _finite(data, path)
    ordered, ordered_affine = to_lps_order(data, affine)
    return Volume(np.ascontiguousarray(ordered), ordered_affine, notes + mended)


def _millimetres(spacing: np.ndarray) -> str:
    return " × ".join(f"{value:.3g}" for value in spacing) + " mm"


def read_volume(path: Path) -> Volume:
    """Read `.nii` or `.nii.gz`.

    A 4-D file gives its last volume (of a b-value series the highest b), NaN and infinities become 0; both
    are noted, and so is a header without an orientation or with two that differ. Values are scaled with the
    header's slope and intercept.

    Raises:
        UnreadableVolumeError: missing, empty, truncated, not NIfTI, complex or RGB, without a usable
            orientation, or without one finite voxel.
    """
    data, affine, place_notes = _read(path)
    return replace(volume_of(data, affine, path), place_notes=place_notes)


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of any number of dimensions, float32, and the matrix, as they stand in the file.

    Raises:
        UnreadableVolumeError: as `read_volume`, as far as reading goes.
    """
    data, affine, _ = _read(path)
    return data, affine


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    try:
        if path.stat().st_size == 0:
            raise UnreadableVolumeError(f"{path}: the file is empty (0 bytes).")
        _refuse_other_name(path)
        image: Any = nibabel.load(path.absolute())  # nibabel expands a leading ~
        check_voxels(image.shape, np.dtype(image.get_data_dtype()), path)
        with np.errstate(over="ignore", invalid="ignore"):
            data = np.asarray(image.dataobj, dtype=np.float32)
        return data, np.asarray(image.affine), _place_notes(image, path)
    except UnreadableVolumeError:
        raise
    except (ImageFileError, HeaderDataError) as error:
        raise UnreadableVolumeError(f"{path}: not a readable NIfTI file ({_said(error, path)}).") from error
    except Exception as error:  # damaged headers and streams raise many kinds
        raise UnreadableVolumeError(f"{path}: truncated or damaged ({_said(error, path)}).") from error


def _place_notes(image: Any, path: Path) -> tuple[str, ...]:
    """What is odd about the orientation that a NIfTI header gives."""
    if not isinstance(image, nibabel.Nifti1Pair):  # the older Analyze format has none
        return ()
    header = image.header
    codes = int(header["sform_code"]), int(header["qform_code"])
    if codes == (0, 0):
        return (
            f"{path.name}: no orientation in its header (sform_code and qform_code are 0): where it "
            "lies is a guess from its size, and images may not lie over each other",
        )
    if min(codes) < 1:
        return ()
    try:
        sform, qform = header.get_sform(), header.get_qform()
    except (HeaderDataError, ValueError):  # no rotation; the sform is used
        return ()
    apart = np.abs((sform - qform) @ _corners(image.shape)).max()
    if not np.isfinite(apart) or apart <= FORMS_TOLERANCE_MM:
        return ()
    return (f"{path.name}: sform and qform of its header lie {apart:.3g} mm apart: the sform is used",)


def _refuse_other_name(path: Path) -> None:
    """A file's name tells whether it is compressed: refuse a wrong one, with the name to give it."""
    with path.open("rb") as file:
        begins = file.read(4)
    named = path.name.lower().endswith(".gz")
    if not named and begins[:2] == b"\x1f\x8b":
        raise UnreadableVolumeError(
            f"{path}: compressed (gzip) and not named so: rename it to {path.name}.gz."
        )
    if named and begins in _HEADER_SIZES:
        raise UnreadableVolumeError(
            f"{path}: not compressed, as its name says: rename it to {path.name[:-3]}."
        )


def _said(error: Exception, path: Path) -> str:
    """The error without the folders above the file, which can be names of people."""
    whole = path.absolute()
    return str(error).replace(str(whole), path.name).replace(whole.as_posix(), path.name)


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray, dtype: type = np.float32) -> None:
    """Write a fresh NIfTI-1 file: nothing but geometry stands in its header.

    Args:
        path: `.nii` or `.nii.gz`; written beside first, then renamed.
        array: (D, H, W).
        affine: (4, 4), index (w, h, d) → RAS millimetres.
        dtype: voxel type of the file.
    """
    image = nibabel.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0), dtype=dtype), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    beside = path.with_name(f".tmp-{path.name}")
    nibabel.save(image, beside.absolute())
    beside.replace(path)


def same_grid(first: Volume, second: Volume) -> bool:
    """Equal shapes and corners within `GRID_TOLERANCE_MM`."""
    if first.array.shape != second.array.shape:
        return False
    corners = _corners(first.array.shape[::-1])
    return bool(np.abs((first.affine - second.affine) @ corners).max() < GRID_TOLERANCE_MM)


def _corners(shape: tuple[int, ...]) -> np.ndarray:
    """Five corners (4, 5) of a grid in voxels, for an affine; of (i, j, k) and more the first three count."""
    i, j, k = (*shape, 1, 1, 1)[:3]
    corners = [[0, 0, 0, 1], [i, 0, 0, 1], [0, j, 0, 1], [0, 0, k, 1], [i, j, k, 1]]
    return np.array(corners, dtype=np.float64).T


def resample(volume: Volume, grid: Volume, nearest: bool = False) -> tuple[np.ndarray, float]:
    """Bring a volume onto another grid by its position in space.

    Args:
        volume: what is resampled; linear interpolation between voxel centres, the border is held for half
            a voxel, and 0 beyond it.
        grid: its shape and affine are taken.
        nearest: nearest neighbour, for masks.

    Returns:
        (D, H, W) float32 on the grid, and the share of the grid that the volume covers (0–1).
    """
    to_source = np.linalg.inv(volume.affine) @ grid.affine
    # scipy indexes arrays as (d, h, w): the reverse of the affine's (w, h, d).
    matrix, offset = to_source[:3, :3][::-1, ::-1], to_source[:3, 3][::-1]
    matrix = np.where(np.abs(matrix) < 1e-9, 0.0, matrix)
    shape = grid.array.shape
    if np.array_equal(matrix, np.diag(np.diag(matrix))):
        matrix = np.diag(matrix)
    array = ndimage.affine_transform(
        volume.array, matrix, offset, output_shape=shape, order=0 if nearest else 1, mode="nearest",
        output=np.float32, prefilter=False,
    )  # fmt: skip
    inside = _inside(to_source[:3][::-1], volume.array.shape, shape)
    return np.where(inside, array, np.float32(0)), float(inside.mean())


def _inside(rows: np.ndarray, source: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """(D, H, W) bool: voxels of the grid whose centre lies in the source's field of view."""
    d, h, w = (np.arange(size, dtype=np.float32) for size in shape)
    inside = np.ones(shape, dtype=bool)
    for row, size in zip(rows.astype(np.float32), source, strict=True):
        position = (
            (row[0] * w)[None, None, :] + (row[1] * h)[None, :, None] + (row[2] * d)[:, None, None] + row[3]
        )
        inside &= (position >= -0.5) & (position <= size - 0.5)
    return inside
