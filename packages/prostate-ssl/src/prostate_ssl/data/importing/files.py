"""Importing what are files already: PI-CAI / grand-challenge .mha, BIDS, loose NIfTI with a mapping."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from prostate_ssl.data.importing.b_values import HIGHEST
from prostate_ssl.data.importing.dicom_headers import list_files
from prostate_ssl.data.importing.outcome import (
    CaseOutcome,
    NamedImage,
    SeriesLine,
    hash_file,
    hash_of,
    is_complete,
    known_case,
    make_data_folder,
    name_cases,
    write_case,
)
from prostate_ssl.data.importing.parallel import parallel_map
from prostate_ssl.data.layout import MASK_NAME, REFERENCE_SEQUENCE
from prostate_ssl.data.tables import read_rows
from prostate_ssl.data.volumes import (
    Volume,
    check_voxels,
    read_nifti,
    read_volume,
    volume_of,
)
from prostate_ssl.errors import ProstateError, UnreadableVolumeError

_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd")
_PICAI = re.compile(r"(?P<patient>\d+)_(?P<study>\d+)(?:_(?P<kind>[a-z0-9]+))?", re.IGNORECASE)
_PICAI_STEMS = {"t2w": REFERENCE_SEQUENCE, "adc": "ax_adc", "hbv": "ax_dwi", "gland": MASK_NAME}
_PICAI_WORTH = {"t2w": 8, "hbv": 4, "adc": 2, "gland": 1}
_STEM = re.compile(rf"{REFERENCE_SEQUENCE}|ax_adc|{MASK_NAME}|(?:ax_)?dwi(?:_b?\d+)?(?:_calc)?|[a-z]\w*")


@dataclass(frozen=True)
class SourceFile:
    """One file of a patient.

    Attributes:
        stem: name of the output without suffix; "" for a file that is left.
        b_values: of a 4-D diffusion file, s/mm², one a volume; it becomes one output for each distinct value.
        reason: why it was taken or left; no part of its name, which can be a person's.
        have: b-values that another file of the patient gives already.
    """

    path: Path
    stem: str
    reason: str
    b_values: tuple[float, ...] = ()
    have: tuple[int, ...] = ()


@dataclass(frozen=True)
class SourcePatient:
    """A patient with its files; all after them is filled in by `import_patients`."""

    patient: str
    files: tuple[SourceFile, ...]
    case_id: str = ""
    source_key: str = ""
    recipe: str = ""
    parts: tuple[str, ...] = ()


def _stem(path: Path) -> str:
    for suffix in _SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def _images(source: Path) -> list[Path]:
    if not source.is_dir():
        raise ProstateError(
            f"{source} does not exist or is not a folder. Name the folder that holds the images."
        )
    return [path for path in list_files(source) if path.name.lower().endswith(_SUFFIXES)]


def find_picai(source: Path) -> list[SourcePatient]:
    """Patients of a PI-CAI / grand-challenge folder: `<patient>_<study>_{t2w,adc,hbv,sag,cor}.mha`.

    Of several studies the one with most of T2, high-b image, ADC and gland mask is taken, of equals the
    latest (the highest number). The high-b image may be acquired or computed, its b-value is not in the name:
    it becomes `ax_dwi`. Gland masks are the files `<patient>_<study>.nii.gz` in a folder `whole_gland`, as
    the challenge's labels have them.
    """
    studies: dict[str, dict[str, list[tuple[str, Path]]]] = {}
    for path in _images(source):
        match = _PICAI.fullmatch(_stem(path))
        if match and (match["kind"] or "whole_gland" in path.parts):
            kinds = studies.setdefault(match["patient"], {}).setdefault(match["study"], [])
            kinds.append(((match["kind"] or "gland").lower(), path))
    patients = []
    for patient, found in sorted(studies.items()):
        best = max(found, key=lambda study: (_worth({kind for kind, _ in found[study]}), int(study)))
        files = [
            _picai_file(kind, path) if study == best else SourceFile(path, "", "another study was taken")
            for study, members in sorted(found.items())
            for kind, path in sorted(members)
        ]
        seen: set[str] = set()
        for row, file in enumerate(files):
            if file.stem and file.stem in seen:
                files[row] = SourceFile(file.path, "", f"a second {file.stem}")
            seen.add(file.stem)
        patients.append(SourcePatient(patient, tuple(files)))
    return patients


def _worth(kinds: set[str]) -> int:
    """Rank of a study by what it holds, as of DICOM examinations; the mask only decides between equals."""
    return sum(points * (kind in kinds) for kind, points in _PICAI_WORTH.items())


def _picai_file(kind: str, path: Path) -> SourceFile:
    stem = _PICAI_STEMS.get(kind, "")
    if stem:
        return SourceFile(path, stem, f"'{kind}' by name")
    return SourceFile(path, "", {"sag": "sagittal", "cor": "coronal"}.get(kind, "not used"))


def find_bids(source: Path) -> list[SourcePatient]:
    """Patients of a BIDS data set (1.x): anat T2w, dwi with .bval, ADC maps, gland masks.

    Of several sessions the last with a T2w image is taken. A T2w image whose name says sagittal or coronal is
    left; one whose slices lie so is refused.
    """
    by_subject: dict[str, list[Path]] = {}
    for path in _images(source):
        subject = next((part for part in path.parts if part.startswith("sub-")), None)
        if subject:
            by_subject.setdefault(subject, []).append(path)
    return [SourcePatient(name, tuple(_bids_files(paths))) for name, paths in sorted(by_subject.items())]


def _session(path: Path) -> str:
    return next((part for part in path.parts if part.startswith("ses-")), "")


def _bids_files(paths: Sequence[Path]) -> list[SourceFile]:
    with_t2 = sorted({_session(path) for path in paths if _stem(path).endswith("_T2w")})
    session = with_t2[-1] if with_t2 else ""
    files = []
    taken: set[str] = set()
    have: set[int] = set()
    # Raw images before those that somebody derived from them.
    for path in sorted(paths, key=lambda path: ("derivatives" in path.parts, path)):
        if _session(path) != session:
            files.append(SourceFile(path, "", "another session was taken"))
            continue
        file = _bids_file(path)
        values = {round(value) for value in file.b_values}
        if (file.stem in taken and not values) or (values and values <= have):
            file = SourceFile(path, "", f"a second {file.stem}")
        elif values:
            file = replace(file, have=tuple(have))
        have |= values
        taken |= {file.stem} - {""}
        files.append(file)
    return files


def _bids_file(path: Path) -> SourceFile:
    stem = _stem(path)
    suffix = stem.rsplit("_", 1)[-1]
    if suffix == "T2w":
        plane = next(
            (name for name in ("sag", "cor") if re.search(rf"acq-\w*{name}", stem, re.IGNORECASE)), None
        )
        if plane:
            return SourceFile(path, "", f"acq-{plane}: not axial")
        return SourceFile(path, REFERENCE_SEQUENCE, "T2w")
    if suffix.lower() == "adc" or "desc-adc" in stem.lower():
        return SourceFile(path, "ax_adc", "an ADC map")
    if suffix == "dwi":
        values = _b_values_beside(path)
        if values is None:
            return SourceFile(path, "", "its .bval file holds no b-values")
        if not values:
            return SourceFile(path, "ax_dwi", "diffusion without a .bval file")
        return SourceFile(
            path, "ax_dwi", f"b = {', '.join(f'{value:g}' for value in sorted(set(values)))}", values
        )
    if suffix in ("mask", "dseg") and re.search("prostate|gland", stem, re.IGNORECASE):
        return SourceFile(path, MASK_NAME, "a gland mask")
    return SourceFile(path, "", "not used")


def _b_values_beside(path: Path) -> tuple[float, ...] | None:
    """b-values of the .bval file, () without one, None where it holds no numbers."""
    file = path.with_name(_stem(path) + ".bval")
    if not file.is_file():
        return ()
    try:
        values = tuple(float(word) for word in file.read_text(encoding="utf-8").split())
    except (ValueError, OSError):
        return None
    return values if values and all(0 <= value <= HIGHEST for value in values) else None


def find_mapped(source: Path, mapping: Path) -> list[SourcePatient]:
    """Patients of a mapping file: CSV with the columns patient_id, file (relative to the source), sequence.

    Sequences are output names: ax_t2wi, ax_adc, ax_dwi_b800, ax_dwi_b1400_calc, roi_Prostate, or any new one.

    Raises:
        ProstateError: the mapping is missing, lacks a column, names a missing file or
            a sequence twice.
    """
    columns, rows = read_rows(mapping)
    wanted = ("patient_id", "file", "sequence")
    if not rows or any(column not in columns for column in wanted):
        raise ProstateError(
            f"The mapping {mapping} needs a header with {', '.join(wanted)} and a line a file."
        )
    patients: dict[str, list[SourceFile]] = {}
    for number, row in enumerate(rows, start=2):
        patient, name, stem = (row.get(column, "") for column in wanted)
        if not patient:
            raise ProstateError(f"{mapping}, line {number}: patient_id is empty.")
        path = source / name
        if not path.is_file():
            raise ProstateError(f"{mapping}, line {number}: {path} does not exist.")
        if not _STEM.fullmatch(stem):
            raise ProstateError(
                f"{mapping}, line {number}: '{stem}' is no name of a sequence, as ax_dwi_b800."
            )
        files = patients.setdefault(patient, [])
        if any(file.stem == stem for file in files):
            raise ProstateError(f"{mapping}, line {number}: {patient} has two files for {stem}.")
        files.append(SourceFile(path, stem, "by the mapping"))
    return [SourcePatient(name, tuple(files)) for name, files in patients.items()]


def import_patients(
    patients: Sequence[SourcePatient],
    out: Path,
    workers: int,
    keep_ids: bool,
    progress: Callable[[str, int], Callable[[], None]],
) -> tuple[list[CaseOutcome], dict[str, str]]:
    """Import listed patients; returns outcomes in order and the original IDs by case (personal)."""
    make_data_folder(out)
    identified = [_identified(patient) for patient in patients]
    names = name_cases(
        [patient.patient for patient in patients],
        [patient.source_key for patient in identified],
        [patient.parts for patient in identified],
        out,
        keep_ids,
    )
    named = [replace(patient, case_id=name) for patient, name in zip(identified, names, strict=True)]
    advance = progress("Importing", len(named))
    outcomes = []
    for outcome in parallel_map(partial(import_patient, out=out), named, workers):
        outcomes.append(outcome)
        advance()
    return outcomes, {patient.case_id: patient.patient for patient in named}


def _identified(patient: SourcePatient) -> SourcePatient:
    """With what tells the patient from others, and on a second run."""
    hashes = {file: hash_file(file.path) for file in patient.files if file.stem}
    return replace(
        patient,
        source_key=hash_of(list(hashes.values())),
        recipe=hash_of([f"{hashed} {file.stem} {file.b_values}" for file, hashed in hashes.items()]),
        parts=tuple(
            mark
            for file, hashed in hashes.items()
            if file.stem == REFERENCE_SEQUENCE
            for mark in (hashed, hash_file(file.path, f"patient {patient.patient}\n"))
        ),
    )


def import_patient(patient: SourcePatient, out: Path) -> CaseOutcome:
    """Import one patient; what goes wrong with it is its outcome, not an exception."""
    outcome = CaseOutcome(patient.case_id, patient.source_key, patient.recipe, patient.parts)
    outcome.series = [
        SeriesLine(
            number,
            file.stem or "other",
            bool(file.stem),
            file.reason,
            b_values=tuple(sorted(set(file.b_values))),
            label=file.path.name,
        )
        for number, file in enumerate(patient.files, start=1)
    ]
    before = known_case(out, patient.case_id)
    same = before is not None and before["source_key"] == patient.source_key
    # Older versions wrote no recipe.
    if before and same and before.get("recipe", "") in ("", patient.recipe) and is_complete(out, before):
        outcome.status, outcome.files = "unchanged", dict(before["files"])
        return outcome
    if (out / patient.case_id).exists():
        outcome.refuse_folder(out / patient.case_id, before)
        return outcome
    try:
        images = [
            image
            for number, file in enumerate(patient.files, start=1)
            if file.stem
            for image in _read(file, number)
        ]
        if not any(image.stem == REFERENCE_SEQUENCE for image in images):
            raise UnreadableVolumeError("no axial T2 image, and every case needs one")
        write_case(out, outcome, images)
    except ProstateError as error:
        outcome.status, outcome.reason = "failed", error.message
        outcome.public_reason = error.message.replace(str(out), "the data folder")
        for number, file in enumerate(patient.files, start=1):
            outcome.public_reason = _impersonal(outcome.public_reason, file.path, number)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one patient, the others are imported
        outcome.status, outcome.reason = "failed", f"{type(error).__name__}: {error}"
        outcome.public_reason = f"could not be read ({type(error).__name__})"
    return outcome


def _impersonal(text: str, path: Path, number: int) -> str:
    """A sentence as a manifest may say it: names of files can be names of people."""
    return text.replace(str(path), f"file {number}").replace(path.name, f"file {number}")


def _read(file: SourceFile, number: int) -> list[NamedImage]:
    source = (str(file.path),)
    if file.b_values:
        return [
            NamedImage(f"ax_dwi_b{round(value)}", volume, number, source)
            for value, volume in _split_by_b_value(file.path, file.b_values)
            if round(value) not in file.have
        ]
    volume = _read_itk(file.path) if file.path.suffix.lower() in (".mha", ".mhd") else read_volume(file.path)
    if file.stem == REFERENCE_SEQUENCE and _lies(volume) != "axial":
        raise UnreadableVolumeError(
            f"{file.path}: its slices lie {_lies(volume)}, an axial T2 image is needed."
        )
    volume = replace(volume, notes=tuple(_impersonal(note, file.path, number) for note in volume.notes))
    return [NamedImage(file.stem, volume, number, source, is_mask=file.stem == MASK_NAME)]


def _lies(volume: Volume) -> str:
    """The plane of the slices: across the axis of the coarsest spacing, where one is clearly coarser."""
    spacing = np.array(volume.spacing)
    if spacing.max() < 1.5 * np.median(spacing):
        return "axial"
    return ("axial", "coronal", "sagittal")[int(spacing.argmax())]


def _read_itk(path: Path) -> Volume:
    """Read .mha or .mhd; of the header nothing but geometry is kept."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = tuple(int(side) for side in reader.GetSize())
        scalar = reader.GetNumberOfComponents() == 1 and "complex" not in sitk.GetPixelIDValueAsString(
            reader.GetPixelID()
        )
        check_voxels(size, np.dtype(np.float32 if scalar else np.void), path)
        image = reader.Execute()
    except (RuntimeError, OverflowError, UnicodeDecodeError) as error:
        raise UnreadableVolumeError(
            f"{path}: not readable ({str(error).strip().splitlines()[-1]})."
        ) from error
    if image.GetDimension() != 3:
        raise UnreadableVolumeError(f"{path}: expected a 3-D image, found {image.GetDimension()} dimensions.")
    data = sitk.GetArrayFromImage(image).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return volume_of(data.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, path)


def _split_by_b_value(path: Path, b_values: Sequence[float]) -> list[tuple[float, Volume]]:
    """A 4-D diffusion file as one volume a b-value: the mean over its directions and repetitions."""
    data, affine = read_nifti(path)
    if data.ndim == 3:
        data = data[..., None]
    if data.ndim != 4 or data.shape[-1] != len(b_values):
        raise UnreadableVolumeError(
            f"{path}: {data.shape[-1]} volumes, but {len(b_values)} b-values in its .bval file."
        )
    volumes = []
    for value in sorted(set(b_values)):
        members = [row for row, b in enumerate(b_values) if b == value]
        volume = volume_of(data[..., members].mean(axis=-1), affine, path)
        if len(members) > 1:
            volume = replace(volume, notes=(*volume.notes, f"mean of {len(members)} volumes"))
        volumes.append((value, volume))
    return volumes
