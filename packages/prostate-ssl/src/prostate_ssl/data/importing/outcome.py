"""What an import did, case by case: the manifest, and writing a case all or nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prostate_ssl.data.volumes import Volume, resample, same_grid, write_volume
from prostate_ssl.errors import ProstateError
from prostate_ssl.files import write_json

REPORT_NAME = "import_report.json"
CASE_REPORT_NAME = "import.json"
VERSION = 1
_SOURCES = "prostate-ssl/import-sources/1"
STATUSES = ("imported", "unchanged", "failed")


@dataclass(frozen=True)
class SeriesLine:
    """One source series (or file) and what became of it. Only its label is free text of the source.

    Attributes:
        number: the series' number, or the place of the file in its folder.
        kind: t2, adc, dwi, computed-b, mask or other.
        taken: whether it is among the outputs.
        reason: why it was taken or left.
        slices, b_values: what it holds.
        label: the series' description or the file's name, for the table on the screen; never written.
    """

    number: int
    kind: str
    taken: bool
    reason: str
    slices: int = 0
    b_values: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    label: str = ""


@dataclass
class CaseOutcome:
    """One patient.

    Attributes:
        case_id: pseudonym, the folder's name.
        source_key: hash over the source images' unique ids; tells on a second run that this is the same case.
        recipe: hash over what each source file was taken for; "" where the files themselves say it (DICOM).
        parts: hashes of its examinations (DICOM) or of its T2 image, with and without the patient's ID: who
            shares one is the same person, unless somebody else shares more.
        status: imported, unchanged or failed.
        reason: of a failure; may name source files.
        public_reason: the same without them, for the manifest.
        series: every series of the source.
        files: output name → shape (D, H, W), resampled or not, series number it came from, checksum.
        sources: output name → source files; never part of the manifest, see `--sources`.
    """

    case_id: str
    source_key: str
    recipe: str = ""
    parts: tuple[str, ...] = ()
    status: str = "imported"
    reason: str = ""
    public_reason: str = ""
    series: list[SeriesLine] = field(default_factory=list)
    files: dict[str, dict[str, object]] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)

    def refuse_folder(self, folder: Path, before: dict[str, Any] | None) -> None:
        """Fail because of what the case's folder holds already."""
        why = "holds something else"
        if before is not None and before["source_key"] == self.source_key:
            why = "was imported from the same files under other names or b-values"
        elif before is not None and set(self.parts) & set(before.get("parts", ())):
            why = "was imported from some of these images; others have been added or are missing since"
        self.status, self.reason = "failed", f"{folder} {why}; remove it first"
        self.public_reason = f"its folder {why}"

    def manifest(self) -> dict[str, object]:
        """The part that is written: nothing personal, no paths, no descriptions."""
        document = asdict(self)
        document["reason"] = document.pop("public_reason")
        del document["sources"]
        for line in document["series"]:
            del line["label"]
        return document


@dataclass(frozen=True)
class NamedImage:
    """An image on its way out: the stem of its file, the voxels, where they came from."""

    stem: str
    volume: Volume
    number: int
    sources: tuple[str, ...]
    is_mask: bool = False


def hash_of(parts: Sequence[str]) -> str:
    """Hash of unique ids, whatever their order."""
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def hash_file(path: Path, owner: str = "") -> str:
    """SHA-256 of a file's bytes, after its owner's ID: without the file, nobody can try IDs on it."""
    digest = hashlib.sha256(owner.encode())
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def folder_name(source_id: str) -> str:
    """A source's ID as a folder name: letters, digits, - _ . stay."""
    cleaned = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in source_id).strip(
        "."
    )
    return cleaned or "unknown"


def refuse_shared_folders(source_ids: Sequence[str]) -> None:
    """Patients whose kept IDs would be one folder must not be imported over each other.

    Raises:
        ProstateError: two of them would.
    """
    owner: dict[str, str] = {}
    for source_id in source_ids:
        other = owner.setdefault(folder_name(source_id), source_id)
        if other != source_id:
            raise ProstateError(
                f"With --keep-ids the patients {other!r} and {source_id!r} would share the folder "
                f"{folder_name(source_id)}. Rename one of them in the source, or import without --keep-ids.",
                2,
            )


def make_data_folder(out: Path) -> None:
    """Make the output folder.

    Raises:
        ProstateError: it cannot be made, or is a file.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProstateError(f"The data folder {out} cannot be made: {error.strerror}.") from error


def write_case(out: Path, outcome: CaseOutcome, images: Sequence[NamedImage]) -> None:
    """Write one case into a hidden folder and rename it; images are brought to the grid of `ax_t2wi`.

    Raises:
        ProstateError: the folder cannot be written (no space, no permission).
    """
    reference = next(image.volume for image in images if image.stem == "ax_t2wi")
    beside = out / f".importing-{outcome.case_id}"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        for image in images:
            outcome.files[image.stem] = _write_image(beside, image, reference)
            outcome.sources[image.stem] = list(image.sources)
        write_json(
            beside / CASE_REPORT_NAME, {"schema": "prostate-ssl/imported-case/1", **outcome.manifest()}
        )
        beside.rename(out / outcome.case_id)
    except OSError as error:
        raise ProstateError(f"{out / outcome.case_id} could not be written: {error}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_image(folder: Path, image: NamedImage, reference: Volume) -> dict[str, object]:
    fits = same_grid(image.volume, reference)
    if fits:
        array, covered = image.volume.array, 1.0
    else:
        array, covered = resample(image.volume, reference, nearest=image.is_mask)
    path = folder / f"{image.stem}.nii.gz"
    dtype = np.uint8 if image.is_mask else _voxel_type(array)
    write_volume(path, array > 0.5 if image.is_mask else array, reference.affine, dtype)
    return {
        "series": image.number,
        "shape": list(array.shape),
        "resampled": not fits,
        "covers": round(covered, 4),
        "notes": list(image.volume.notes),
        "sha256": hash_file(path),
    }


def _voxel_type(array: np.ndarray) -> type:
    """int16 where it loses nothing, else float32."""
    whole = bool(np.all(array == np.rint(array)))
    return np.int16 if whole and array.min() >= -32768 and array.max() <= 32767 else np.float32


def known_cases(out: Path) -> list[dict[str, Any]]:
    """Manifests of the cases that stand in the output folder already, by name."""
    documents = [_read_manifest(path) for path in sorted(out.glob(f"*/{CASE_REPORT_NAME}"))]
    return [document for document in documents if document is not None]


def known_case(out: Path, case_id: str) -> dict[str, Any] | None:
    """Manifest of one case in the output folder, or None."""
    return _read_manifest(out / case_id / CASE_REPORT_NAME)


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and "source_key" in document else None


def is_complete(out: Path, document: dict[str, Any]) -> bool:
    """Whether every file of a case's manifest is there with its checksum."""
    files = document.get("files")
    if not isinstance(files, dict) or not files:
        return False
    folder = out / str(document["case_id"])
    for stem, facts in files.items():
        path = folder / f"{stem}.nii.gz"
        if not path.is_file() or hash_file(path) != facts["sha256"]:
            return False
    return True


def write_manifest(out: Path, kind: str, outcomes: Sequence[CaseOutcome], unread: int) -> None:
    """Write `import_report.json`: the cases of this run and those of earlier runs in the folder."""
    here = {outcome.case_id: outcome.manifest() for outcome in outcomes}
    before = {str(case["case_id"]): {**case, "status": "unchanged"} for case in known_cases(out)}
    for case in before.values():
        case.pop("schema", None)
    cases = [(before | here)[name] for name in sorted(before | here)]
    document = {
        "schema": "prostate-ssl/import/1",
        "kind": kind,
        "version": VERSION,
        "counts": {status: sum(case["status"] == status for case in cases) for status in STATUSES},
        "unreadable_files": unread,
        "cases": cases,
    }  # fmt: skip
    write_json(out / REPORT_NAME, document)


def read_sources(path: Path) -> dict[str, dict[str, Any]]:
    """What `write_sources` has written so far, by case; nothing where there is no such file.

    Raises:
        ProstateError: the file is another one, which must not be overwritten.
    """
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProstateError(f"--sources {path}: the file is there and cannot be read: {error}.", 2) from error
    if not isinstance(document, dict) or document.get("schema") != _SOURCES:
        raise ProstateError(f"--sources {path}: the file is no list of sources. Name another one.", 2)
    cases: dict[str, dict[str, Any]] = document["cases"]
    return cases


def write_sources(path: Path, outcomes: Sequence[CaseOutcome], names: dict[str, str]) -> None:
    """Write which source became what: pseudonym → original ID and files. Personal: on request only.

    What earlier imports have written there stays: it may be the only record of who is who.
    """
    cases = read_sources(path)
    for o in outcomes:
        if o.status == "failed" and o.case_id in cases:  # the folder may be somebody else's
            continue
        files = o.sources or cases.get(o.case_id, {}).get("files", {})
        cases[o.case_id] = {"source_id": names[o.case_id], "files": files}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"schema": _SOURCES, "cases": dict(sorted(cases.items()))})


def name_cases(
    source_ids: Sequence[str], keys: Sequence[str], parts: Sequence[Sequence[str]], out: Path, keep_ids: bool
) -> list[str]:
    """For each source its old case, if it or a part of it was imported before, else a new one.

    Two patients may have the same images: the case that most speaks for goes first, and to one source only.

    Raises:
        ProstateError: two kept IDs would be one folder.
    """
    if keep_ids:
        refuse_shared_folders(source_ids)
    known = known_cases(out)
    by_mark: dict[str, list[str]] = {}
    for document in known:
        for mark in {str(document["source_key"]), *document.get("parts", ())}:
            by_mark.setdefault(mark, []).append(str(document["case_id"]))
    shared = Counter(
        (row, case)
        for row, (key, own) in enumerate(zip(keys, parts, strict=True))
        for mark in {key, *own}
        for case in by_mark.get(mark, ())
    )
    old: dict[int, str] = {}
    given: set[str] = set()
    for (row, case), _ in sorted(shared.items(), key=lambda pair: (-pair[1], pair[0])):
        if row not in old and case not in given:
            old[row] = case
            given.add(case)
    fresh = iter(next_pseudonyms(out, len(source_ids), {str(case["case_id"]) for case in known}))
    return [
        old.get(row) or (folder_name(source_id) if keep_ids else next(fresh))
        for row, source_id in enumerate(source_ids)
    ]


def next_pseudonyms(out: Path, count: int, taken: set[str]) -> list[str]:
    """The next free `case_0001`, `case_0002`, …"""
    names: list[str] = []
    number = 0
    while len(names) < count:
        number += 1
        name = f"case_{number:04d}"
        if name not in taken and not (out / name).exists():
            names.append(name)
    return names
