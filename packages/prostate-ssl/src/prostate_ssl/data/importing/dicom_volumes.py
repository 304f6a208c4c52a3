"""From frames to volumes: sorting by place, copies, gaps, pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset

from prostate_ssl.data.importing.dicom_headers import Frame
from prostate_ssl.data.importing.dicom_series import normal_of
from prostate_ssl.data.volumes import Volume, to_lps_order
from prostate_ssl.errors import UnreadableVolumeError

POSITION_TOLERANCE_MM = 0.1
MOST_MISSING = 0.2
"""A stack that lacks more than this share of its slices is refused."""


@dataclass(frozen=True)
class Stack:
    """Frames of one image in order along the normal.

    Attributes:
        places: one list of frames for each slice: several where directions or repetitions are averaged.
        step: distance between slices, mm.
        missing: indices between the places where a slice is missing, in units of the step.
        notes: what was mended.
    """

    places: tuple[tuple[Frame, ...], ...]
    offsets: tuple[int, ...]
    step: float
    notes: tuple[str, ...]


def stack_frames(frames: Sequence[Frame], what: str) -> Stack:
    """Sort frames by place, drop copies, choose an acquisition, find gaps.

    Raises:
        UnreadableVolumeError: orientations or pixel sizes differ, slices are not evenly spaced, or more than
            a fifth of them is missing.
    """
    first = frames[0]
    for frame in frames:
        if np.abs(np.subtract(frame.orientation, first.orientation)).max() > 1e-3:
            raise UnreadableVolumeError(f"{what}: slices of different orientations.")
        if np.abs(np.subtract(frame.spacing, first.spacing)).max() > 1e-3:
            raise UnreadableVolumeError(f"{what}: slices of different pixel sizes.")
    notes: list[str] = []
    # With the place: some anonymisers give all images one uid.
    unique = {(frame.uid, tuple(np.round(frame.position, 2))): frame for frame in frames}
    if len(unique) < len(frames):
        notes.append(f"{len(frames) - len(unique)} copies of the same image dropped")
    places = _by_place(list(unique.values()))
    places, more = _settle_repeats(places)
    notes += more
    if len(places) == 1:
        return Stack((places[0][1],), (0,), first.thickness or 1.0, tuple(notes))
    distances = np.array([distance for distance, _ in places])
    gaps = np.diff(distances)
    step = float(np.median(gaps))
    offsets = np.round((distances - distances[0]) / step).astype(int)
    if np.abs(distances - distances[0] - offsets * step).max() > max(0.25 * step, POSITION_TOLERANCE_MM):
        raise UnreadableVolumeError(
            f"{what}: slices are not evenly spaced ({gaps.min():.2f} to {gaps.max():.2f} mm)."
        )
    missing = int(offsets[-1]) + 1 - len(places)
    if missing > MOST_MISSING * (offsets[-1] + 1):
        raise UnreadableVolumeError(f"{what}: {missing} of {offsets[-1] + 1} slices are missing.")
    if missing:
        notes.append(f"{missing} missing slices interpolated from their neighbours")
    step = float((distances[-1] - distances[0]) / offsets[-1])
    return Stack(tuple(group for _, group in places), tuple(int(o) for o in offsets), step, tuple(notes))


def _by_place(frames: list[Frame]) -> list[tuple[float, tuple[Frame, ...]]]:
    normal = normal_of(frames[0].orientation)
    ordered = sorted(
        frames, key=lambda frame: (float(np.dot(frame.position, normal)), frame.acquisition, frame.uid)
    )
    places: list[tuple[float, list[Frame]]] = []
    for frame in ordered:
        distance = float(np.dot(frame.position, normal))
        if places and distance - places[-1][0] < POSITION_TOLERANCE_MM:
            places[-1][1].append(frame)
        else:
            places.append((distance, [frame]))
    return [(distance, tuple(group)) for distance, group in places]


def _settle_repeats(
    places: list[tuple[float, tuple[Frame, ...]]],
) -> tuple[list[tuple[float, tuple[Frame, ...]]], list[str]]:
    """Several frames at one place: trace images before single directions, then the last full acquisition."""
    if all(len(group) == 1 for _, group in places):
        return places, []
    notes = []
    traces = [(d, tuple(f for f in group if not f.directional)) for d, group in places]
    if all(group for _, group in traces) and any(f.directional for _, group in places for f in group):
        places = traces
        notes.append("trace images taken, single directions left")
    if any(frame.directional for _, group in places for frame in group):
        most = max(len(group) for _, group in places)
        return places, [*notes, f"mean of up to {most} diffusion directions"]
    numbers = sorted({frame.acquisition for _, group in places for frame in group})
    for number in reversed(numbers):
        one = [(d, tuple(f for f in group if f.acquisition == number)) for d, group in places]
        if len(numbers) > 1 and all(group for _, group in one):
            places = one
            notes.append(f"acquisition {number} of {len(numbers)} taken (the last complete one)")
            break
    if any(len(group) > 1 for _, group in places):
        most = max(len(group) for _, group in places)
        notes.append(f"mean of up to {most} images at one place")
    return places, notes


@dataclass(frozen=True)
class _Decoded:
    """Pixels of a file.

    Attributes:
        pixels: (frames, rows, columns).
        rescaled: whether slope and intercept are applied already.
        padding: lowest and highest stored value that stands for «nothing measured here», or None.
    """

    pixels: np.ndarray
    rescaled: bool
    padding: tuple[int, int] | None


def _padding(image: Dataset) -> tuple[int, int] | None:
    """PixelPaddingValue and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2), as stored values are read."""
    first = image.get("PixelPaddingValue")
    if not isinstance(first, int):
        return None
    last = image.get("PixelPaddingRangeLimit")
    ends = [first, last if isinstance(last, int) else first]
    if image.get("PixelRepresentation"):
        # Some writers store a negative padding as unsigned.
        bits = int(image.get("BitsAllocated", 16))
        ends = [end - (1 << bits) if end >= 1 << (bits - 1) else end for end in ends]
    return min(ends), max(ends)


def _decode(file: Path) -> _Decoded:
    """Decode a file; compressed syntaxes that pydicom lacks a plug-in for go to GDCM, which also rescales."""
    try:
        image = pydicom.dcmread(file, force=True)
        pixels = image.pixel_array
        rescaled = False
    except Exception as first:  # noqa: BLE001 - pydicom raises many kinds on damaged files
        try:
            image = pydicom.dcmread(file, force=True, stop_before_pixels=True)
            pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
            rescaled = True
        except RuntimeError:
            raise UnreadableVolumeError(f"{file}: its pixels cannot be read ({first}).") from first
    return _Decoded(np.asarray(pixels).reshape(-1, *pixels.shape[-2:]), rescaled, _padding(image))


def _pixels(frame: Frame, opened: dict[Path, _Decoded]) -> tuple[np.ndarray, bool]:
    """Intensities of a frame, padding as 0, and whether there was any that would have been another value."""
    if frame.index is None:
        decoded = _decode(frame.file)
    else:
        decoded = opened.setdefault(frame.file, opened.get(frame.file) or _decode(frame.file))
    stored = decoded.pixels[frame.index or 0]
    slope, intercept = np.float32(frame.slope), np.float32(frame.intercept)
    values = stored.astype(np.float32) if decoded.rescaled else stored * slope + intercept
    if decoded.padding is None:
        return values, False
    low, high = decoded.padding
    raw = np.rint((stored - intercept) / slope) if decoded.rescaled else stored
    padded = (raw >= low) & (raw <= high)
    return np.where(padded, np.float32(0), values), bool(values[padded].any())


def read_stack(stack: Stack) -> Volume:
    """Pixels of a stack as a volume: rescaled, repeats averaged, gaps interpolated linearly.

    Raises:
        UnreadableVolumeError: a file's pixels cannot be decoded; the message names it.
    """
    opened: dict[Path, _Decoded] = {}
    known, padded = [], False
    for group in stack.places:
        planes = [_pixels(frame, opened) for frame in group]
        known.append(np.mean([plane for plane, _ in planes], axis=0, dtype=np.float32))
        padded = padded or any(found for _, found in planes)
    depth = stack.offsets[-1] + 1
    data = np.zeros((depth, *known[0].shape), dtype=np.float32)
    for offset, plane in zip(stack.offsets, known, strict=True):
        data[offset] = plane
    for gap in sorted(set(range(depth)) - set(stack.offsets)):
        below = max(o for o in stack.offsets if o < gap)
        above = min(o for o in stack.offsets if o > gap)
        share = (gap - below) / (above - below)
        data[gap] = (1 - share) * data[below] + share * data[above]
    notes = (*stack.notes, "padding around the image set to 0") if padded else stack.notes
    affine = _affine(stack)
    ordered, ordered_affine = to_lps_order(data.transpose(2, 1, 0), affine)
    return Volume(np.ascontiguousarray(ordered), ordered_affine, notes)


def _affine(stack: Stack) -> np.ndarray:
    """(column, row, slice) index → RAS millimetres (DICOM PS3.3 C.7.6.2.1.1; LPS there)."""
    first, last = stack.places[0][0], stack.places[-1][0]
    row, column = np.asarray(first.orientation[:3]), np.asarray(first.orientation[3:])
    affine = np.eye(4)
    affine[:3, 0] = row * first.spacing[1]
    affine[:3, 1] = column * first.spacing[0]
    if stack.offsets[-1]:
        affine[:3, 2] = np.subtract(last.position, first.position) / stack.offsets[-1]
    else:
        affine[:3, 2] = normal_of(first.orientation) * stack.step
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
