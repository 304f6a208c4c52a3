"""Reading DICOM headers: every file of a tree, classic or enhanced multi-frame, as frames of series."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    EnhancedMRColorImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from prostate_ssl.data.importing.b_values import b_value_of, private_b_value

_MR_IMAGES = (
    MRImageStorage,
    EnhancedMRImageStorage,
    EnhancedMRColorImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
)
_EXPONENTIAL = re.compile(r"(?<![a-z])e[\s_-]?adc|exponential")
# The end of a word, since Siemens writes MIXADC and Philips dADC; ADCmap in one word too.
_ADC = re.compile(r"adc(?![a-z])|adc[\s_-]*map|apparent[\s_-]+diffusion")


@dataclass(frozen=True)
class Frame:
    """One slice as its header describes it.

    Attributes:
        file, index: where its pixels are; index None for a single-frame file.
        uid: SOP instance (with the frame's index): equal uids are copies.
        position: (x, y, z) mm of the first pixel's centre, LPS. orientation: row and column cosines.
        spacing: between rows, between columns, mm.
        b_value: s/mm², or None. directional: a single diffusion direction, not a trace image.
        acquisition: acquisition number, 0 where absent.
        echo_time: ms, 0 where absent.
        slope, intercept: stored value → intensity.
    """

    file: Path
    index: int | None
    uid: str
    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    b_value: float | None
    directional: bool
    acquisition: int
    echo_time: float
    slope: float
    intercept: float
    thickness: float


@dataclass(frozen=True)
class SeriesKey:
    """What sorts frames into series: an enhanced object may hold ADC and trace images in one file."""

    patient: str
    study: str
    series: str
    rows: int
    columns: int
    is_adc: bool
    is_colour: bool


@dataclass(frozen=True)
class SeriesFacts:
    """What classification reads, in the standard's terms. Texts are lower case.

    Attributes:
        title: the series' own description, the protocol's name only where there is none: a protocol's name
            stands in every series made of it, in the acquired ones as in maps and computed images.
        description: both.
    """

    number: int
    title: str
    description: str
    image_type: tuple[str, ...]
    modality: str
    sequence: str
    scanning_sequence: tuple[str, ...]
    echo_time: float
    repetition_time: float
    study_date: str
    frame_of_reference: str


@dataclass(frozen=True)
class HeaderResult:
    """Of one file: its frames, or why there are none (`not-dicom` is no fault, `unreadable` is one)."""

    file: Path
    frames: tuple[tuple[SeriesKey, SeriesFacts, Frame], ...] = ()
    problem: str = ""
    is_dicom: bool = True


def list_files(root: Path) -> Iterator[Path]:
    """Every file below the root, hidden ones excepted, in a fixed order."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.upper() != "DICOMDIR":
                yield Path(folder) / name


def _looks_like_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            head = handle.read(132)
    except OSError:
        return True
    # Old archives write no preamble: such a file begins with an element of group 0002 or 0008.
    bare = len(head) > 8 and head[0] in (2, 8) and head[1] == 0 and head[3] == 0
    return head[128:] == b"DICM" or bare


def read_headers(file: Path) -> HeaderResult:
    """Read one file's header; never raises: a damaged file is a result."""
    marked = _looks_like_dicom(file) or file.suffix.lower() in (".dcm", ".ima")
    try:
        image = pydicom.dcmread(file, stop_before_pixels=True, force=marked)
        if "SOPClassUID" not in image and "Rows" not in image:
            return HeaderResult(file, problem="no DICOM image in it", is_dicom=marked)
        if "Rows" not in image:
            if _is_mr_image(image):
                return HeaderResult(file, problem="its header ends early")
            return HeaderResult(file, problem="not an image", is_dicom=False)
        return HeaderResult(file, tuple(_frames_of(image, file)))
    except InvalidDicomError:
        return HeaderResult(file, problem="not DICOM", is_dicom=False)
    except Exception as error:  # noqa: BLE001 - pydicom raises many kinds on damaged files
        return HeaderResult(file, problem=f"{type(error).__name__}: {error}", is_dicom=marked)


def _is_mr_image(image: Dataset) -> bool:
    """Whether the file was an MR image: not by modality, which raw data, that have no rows, share."""
    said = image.get("SOPClassUID") or image.file_meta.get("MediaStorageSOPClassUID")
    return said in _MR_IMAGES or (not said and image.get("Modality") == "MR")


def _numbers(value: Any, count: int, what: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in (value if value is not None else ()))
    if len(numbers) != count:
        raise ValueError(f"{what} is missing")
    return numbers


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    parts = [value] if isinstance(value, str) else list(value)
    return tuple(str(part).upper() for part in parts)


def _facts(image: Dataset, image_type: tuple[str, ...], echo: Any, repetition: Any) -> SeriesFacts:
    title, protocol = (
        str(image.get(name) or "").strip().lower() for name in ("SeriesDescription", "ProtocolName")
    )
    return SeriesFacts(
        int(image.get("SeriesNumber") or 0),
        title or protocol,
        f"{title} {protocol}".strip(),
        image_type,
        str(image.get("Modality", "")),
        f"{image.get('SequenceName', '')} {image.get('PulseSequenceName', '')}".strip().lower(),
        _texts(image.get("ScanningSequence")) or _enhanced_sequence(image),
        float(echo or 0.0),
        float(repetition or 0.0),
        f"{image.get('StudyDate', '')}{image.get('StudyTime', '')}",
        str(image.get("FrameOfReferenceUID", "")),
    )


def _enhanced_sequence(image: Dataset) -> tuple[str, ...]:
    """Enhanced objects say it in other words: EchoPulseSequence SPIN | GRADIENT, EchoPlanarPulseSequence."""
    kinds = []
    if str(image.get("EchoPlanarPulseSequence", "")).upper() == "YES":
        kinds.append("EP")
    echo = str(image.get("EchoPulseSequence", "")).upper()
    if echo:
        kinds.append({"SPIN": "SE", "GRADIENT": "GR"}.get(echo, echo))
    return tuple(kinds)


def _key(image: Dataset, is_adc: bool) -> SeriesKey:
    study = str(image.get("StudyInstanceUID", ""))
    # Anonymisers empty ID and name: then every examination counts as a patient, or all but one would be lost.
    patient = str(image.get("PatientID") or "").strip() or str(image.get("PatientName") or "").strip()
    return SeriesKey(
        patient or f"unknown {study}",
        study,
        str(image.get("SeriesInstanceUID", "")),
        int(image.Rows),
        int(image.Columns),
        is_adc,
        int(image.get("SamplesPerPixel") or 1) > 1,
    )


def names_exponential(image_type: tuple[str, ...], title: str) -> bool:
    """Whether type or title call an image an exponential ADC map."""
    return "EADC" in image_type or _EXPONENTIAL.search(title) is not None


def names_adc(image_type: tuple[str, ...], title: str) -> bool:
    """Whether an image is an ADC map: the type says it, the title only where the type leaves it open."""
    if names_exponential(image_type, title):
        return False
    if any(kind == "ADC" or kind.startswith("ADC_") for kind in image_type):
        return True
    if "TRACEW" in image_type or "DIFFUSION" in image_type:
        return False
    return _ADC.search(title) is not None


def _frames_of(image: Dataset, file: Path) -> Iterator[tuple[SeriesKey, SeriesFacts, Frame]]:
    if "PerFrameFunctionalGroupsSequence" in image:
        yield from _enhanced_frames(image, file)
        return
    image_type = _texts(image.get("ImageType"))
    facts = _facts(image, image_type, image.get("EchoTime"), image.get("RepetitionTime"))
    spacing = _numbers(image.get("PixelSpacing"), 2, "PixelSpacing")
    frame = Frame(
        file,
        None,
        str(image.get("SOPInstanceUID") or file),
        _numbers(image.get("ImagePositionPatient"), 3, "ImagePositionPatient"),  # type: ignore[arg-type]
        _numbers(image.get("ImageOrientationPatient"), 6, "ImageOrientationPatient"),
        (spacing[0], spacing[1]),
        b_value_of(image),
        _is_directional(image),
        int(image.get("AcquisitionNumber") or 0),
        facts.echo_time,
        float(image.get("RescaleSlope", 1) or 1),
        float(image.get("RescaleIntercept", 0) or 0),
        float(image.get("SliceThickness") or 0),
    )
    yield _key(image, names_adc(image_type, facts.title)), facts, frame


def _is_directional(image: Dataset) -> bool:
    said = str(image.get("DiffusionDirectionality", "")).upper()
    if said:
        return said in ("DIRECTIONAL", "BMATRIX")
    if 0x0019100D in image:  # Siemens: DIRECTIONAL, ISOTROPIC, NONE
        value = image[0x0019100D].value
        return (value.decode("ascii", "ignore") if isinstance(value, bytes) else str(value)).startswith(
            "DIRECT"
        )
    return False


def _group(shared: Dataset, own: Dataset, name: str) -> Dataset:
    """A functional group of a frame: its own, else the shared one, else empty."""
    for functional in (own, shared):
        sequence = functional.get(name)
        if sequence:
            return sequence[0]
    return Dataset()


def _enhanced_frames(image: Dataset, file: Path) -> Iterator[tuple[SeriesKey, SeriesFacts, Frame]]:
    """Frames of an Enhanced MR object (PS3.3 A.36), each with its functional groups."""
    shared = (image.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for index, own in enumerate(image.PerFrameFunctionalGroupsSequence):
        frame_type = _group(shared, own, "MRImageFrameTypeSequence").get("FrameType")
        image_type = _texts(frame_type or image.get("ImageType"))
        measures = _group(shared, own, "PixelMeasuresSequence")
        diffusion = _group(shared, own, "MRDiffusionSequence")
        values = _group(shared, own, "PixelValueTransformationSequence")
        echo = _group(shared, own, "MREchoSequence").get("EffectiveEchoTime")
        timing = _group(shared, own, "MRTimingAndRelatedParametersSequence").get("RepetitionTime")
        facts = _facts(image, image_type, echo, timing)
        b_value = diffusion.get("DiffusionBValue")
        spacing = _numbers(measures.get("PixelSpacing"), 2, "PixelSpacing")
        position = _group(shared, own, "PlanePositionSequence").get("ImagePositionPatient")
        orientation = _group(shared, own, "PlaneOrientationSequence").get("ImageOrientationPatient")
        content = _group(shared, own, "FrameContentSequence")
        frame = Frame(
            file,
            index,
            f"{image.get('SOPInstanceUID') or file}#{index}",
            _numbers(position, 3, "ImagePositionPatient"),  # type: ignore[arg-type]
            _numbers(orientation, 6, "ImageOrientationPatient"),
            (spacing[0], spacing[1]),
            private_b_value(own) if b_value is None else float(b_value),
            str(diffusion.get("DiffusionDirectionality", "")).upper() in ("DIRECTIONAL", "BMATRIX"),
            int(content.get("FrameAcquisitionNumber") or 0),
            facts.echo_time,
            float(values.get("RescaleSlope", 1) or 1),
            float(values.get("RescaleIntercept", 0) or 0),
            float(measures.get("SliceThickness") or 0),
        )
        yield _key(image, names_adc(image_type, facts.title)), facts, frame
