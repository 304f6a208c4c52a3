"""The published folder layout: one folder a patient, one NIfTI file a sequence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prostate_ssl.errors import ProstateError, UnreadableVolumeError

REQUIRED_SEQUENCES = ("ax_t2wi", "ax_adc", "ax_dwi")
REFERENCE_SEQUENCE = "ax_t2wi"
MASK_NAME = "roi_Prostate"
OWN_MARKS = frozenset({"config.yaml", ".locks", "features.csv", "model.pth", "model.safetensors"})
"""Of runs, caches, extractions, fine-tunings and exports: a folder with one and no image is no patient."""
DIAGNOSTIC_B_VALUE = 800
"""An acquired image at this b-value (s/mm²) or above is preferred to a computed one."""

# Capitals come from Windows and from some scanners' exports; nibabel opens these spellings.
_SUFFIX = re.compile(r"\.(?P<nii>nii|NII)(?P<gz>\.gz|\.GZ)?$")
_DWI = re.compile(r"(?:ax_)?dwi(?:[_-]?b?(?P<b>\d+))?(?P<calc>_calc)?", re.IGNORECASE)


@dataclass(frozen=True)
class DwiFile:
    """One diffusion file: its b-value in s/mm² (None: not in the name) and whether it is computed."""

    path: Path
    b_value: int | None
    computed: bool


@dataclass(frozen=True)
class Choice:
    """The file chosen for a sequence.

    Attributes:
        path: None where the case lacks the sequence.
        notes: which twin was passed over, which other spelling was read, or between which none was chosen.
        candidates: files that could have been taken: all b-values of the case.
    """

    path: Path | None
    notes: tuple[str, ...] = ()
    b_value: int | None = None
    candidates: int = 1


@dataclass(frozen=True)
class Case:
    """A patient's folder."""

    case_id: str
    folder: Path


def stem_of(path: Path) -> str | None:
    """File name without `.nii` or `.nii.gz`, also in capitals; None for other files."""
    suffix = _SUFFIX.search(path.name)
    return path.name[: suffix.start()] if suffix else None


def nifti_files(folder: Path) -> dict[str, Path]:
    """Stem → file. Of two with one stem the uncompressed is taken: it is read without decoding.

    Raises:
        UnreadableVolumeError: the folder cannot be read.
    """
    found: dict[str, Path] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UnreadableVolumeError(f"{folder}: cannot be read ({error.strerror}).") from error
    for path in paths:
        stem = stem_of(path)
        if stem is None or path.name.startswith(".") or not path.is_file():
            continue
        if stem not in found or _preference(path) > _preference(found[stem]):
            found[stem] = path
    return found


def _preference(path: Path) -> tuple[bool, bool]:
    suffix = _SUFFIX.search(path.name)
    return suffix is not None and not suffix["gz"], suffix is not None and suffix[0].islower()


def _twin_note(path: Path) -> tuple[str, ...]:
    if path.suffix in (".nii", ".NII"):
        for suffix in (".nii.gz", ".nii.GZ", ".NII.gz", ".NII.GZ"):
            twin = path.with_name(path.stem + suffix)
            if twin.is_file():
                return (f"both {path.name} and {twin.name}: the uncompressed one is read",)
    return ()


def _other_letters_note(path: Path, name: str) -> str:
    return f"{path.name} is read as {name}"


def _in_other_letters(files: dict[str, Path], name: str) -> Choice:
    """The file whose stem is `name` in another case of letters, if there is just one."""
    alike = [path for stem, path in files.items() if stem.casefold() == name.casefold()]
    if len(alike) == 1:
        return Choice(alike[0], (_other_letters_note(alike[0], name), *_twin_note(alike[0])))
    if alike:
        named = " and ".join(path.name for path in alike)
        return Choice(None, (f"{named} may each be {name}: rename the right one to {name}",))
    return Choice(None)


def dwi_files(folder: Path) -> list[DwiFile]:
    """Every diffusion file of a case: `ax_dwi*` and `dwi*`, with or without a b-value in the name."""
    found = []
    for stem, path in nifti_files(folder).items():
        match = _DWI.fullmatch(stem)
        if match:
            b_value = int(match["b"]) if match["b"] else None
            found.append(DwiFile(path, b_value, match["calc"] is not None))
    return found


def choose_dwi(files: list[DwiFile], prefer_computed: bool = False) -> DwiFile | None:
    """The highest b-value; a computed one only if no acquired image reaches b 800, or on request."""

    def rank(file: DwiFile) -> tuple[int, str]:
        return (-1 if file.b_value is None else file.b_value, file.path.name)

    acquired = sorted((file for file in files if not file.computed), key=rank)
    computed = sorted((file for file in files if file.computed), key=rank)
    if computed and prefer_computed:
        return computed[-1]
    if acquired and (not computed or (acquired[-1].b_value or 0) >= DIAGNOSTIC_B_VALUE):
        return acquired[-1]
    return computed[-1] if computed else None


def choose_sequence(folder: Path, name: str, prefer_computed: bool = False) -> Choice:
    """The file of one sequence.

    Args:
        folder: the patient's folder.
        name: `ax_dwi` (or `dwi`) means the highest b-value; any other name is a file's stem. Where no file
            has exactly that stem, the one that has it in another case of letters is taken, and said.
        prefer_computed: take a computed high-b image even where b ≥ 800 was acquired.
    """
    if not folder.is_dir():
        return Choice(None)
    if name in ("ax_dwi", "dwi"):
        files = dwi_files(folder)
        chosen = choose_dwi(files, prefer_computed)
        if chosen is None:
            return Choice(None)
        stem = stem_of(chosen.path) or ""
        said = (_other_letters_note(chosen.path, stem.lower()),) if stem != stem.lower() else ()
        return Choice(chosen.path, (*said, *_twin_note(chosen.path)), chosen.b_value, len(files))
    stems = nifti_files(folder)
    path = stems.get(name)
    return Choice(path, _twin_note(path)) if path else _in_other_letters(stems, name)


def chosen_files(folder: Path, sequences: Iterable[str], prefer_computed: bool = False) -> dict[str, Path]:
    """The files that a case is made of, by name: the reference, its sequences, its mask; those that exist."""
    names = dict.fromkeys((REFERENCE_SEQUENCE, *sequences, MASK_NAME))
    chosen = {name: choose_sequence(folder, name, prefer_computed).path for name in names}
    return {name: path for name, path in chosen.items() if path is not None}


def _is_case_folder(folder: Path) -> bool:
    """Lists (`split/train.csv`), runs and caches may stand in the root beside the patients; they are none."""
    if folder.name.startswith(".") or not folder.is_dir():
        return False
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return True  # a case that cannot be read is refused by name when it is read
    has_image = any(stem_of(Path(name)) for name in names)
    other = any(name.lower().endswith(".csv") or name in OWN_MARKS for name in names)
    return has_image or not other


def discover_cases(root: Path) -> list[Case]:
    """Every patient's folder below the root, by name.

    Raises:
        ProstateError: the root is missing, is a file, or has no patient's folder.
    """
    if not root.is_dir():
        raise ProstateError(
            f"The data folder {root} does not exist or is not a folder. Name the folder that holds one "
            "folder a patient, make one from DICOM with `prostate-ssl import dicom SRC --out DATA`, or make "
            "synthetic cases with `prostate-ssl phantom DATA --cases 12`."
        )
    cases = [Case(folder.name, folder) for folder in sorted(root.iterdir()) if _is_case_folder(folder)]
    if not cases:
        raise ProstateError(
            f"The data folder {root} has no patient in it. It should hold one folder a patient with "
            f"{', '.join(REQUIRED_SEQUENCES)} as .nii or .nii.gz; `prostate-ssl import` makes it from DICOM."
        )
    return cases
