"""DICOM trees → the published layout. Series are recognised by their tags, never by folder names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from prostate_ssl.data.importing.dicom_headers import (
    Frame,
    HeaderResult,
    SeriesFacts,
    SeriesKey,
    list_files,
    read_headers,
)
from prostate_ssl.data.importing.dicom_series import (
    ADC,
    COMPUTED,
    DWI,
    OTHER,
    T2,
    Judgement,
    Series,
    choose,
    computed_b_value,
    judge,
    places_of,
    ranked,
    split_echoes,
)
from prostate_ssl.data.importing.dicom_volumes import read_stack, stack_frames
from prostate_ssl.data.importing.outcome import (
    CaseOutcome,
    NamedImage,
    SeriesLine,
    hash_of,
    is_complete,
    known_case,
    make_data_folder,
    name_cases,
    write_case,
)
from prostate_ssl.data.importing.parallel import parallel_map
from prostate_ssl.errors import ProstateError, UnreadableVolumeError


@dataclass(frozen=True)
class ImportResult:
    """Outcomes in order, original IDs by case (personal), damaged files."""

    outcomes: tuple[CaseOutcome, ...]
    source_ids: dict[str, str]
    unreadable: tuple[HeaderResult, ...]


@dataclass(frozen=True)
class _Study:
    patient: str
    judgements: tuple[Judgement, ...]
    case_id: str = ""
    source_key: str = ""
    parts: tuple[str, ...] = ()


def import_dicom(
    source: Path,
    out: Path,
    workers: int = 2,
    keep_ids: bool = False,
    progress: Callable[[str, int], Callable[[], None]] = lambda _title, _total: lambda: None,
) -> ImportResult:
    """Import every patient of a DICOM tree.

    Args:
        source: folder (or one file).
        out: data folder; cases that were imported before and are whole are left alone.
        workers: processes.
        keep_ids: name folders after the PatientID instead of a pseudonym.
        progress: (title, total) → a function that is called once an item.

    Raises:
        ProstateError: nothing there, no DICOM image in it, or the output cannot be written.
    """
    if not source.exists():
        raise ProstateError(f"{source} does not exist. Name a folder of DICOM files.")
    files = [source] if source.is_file() else list(list_files(source))
    if not files:
        raise ProstateError(f"{source} has no file in it. Name a folder of DICOM files.")
    advance = progress("Reading headers", len(files))
    results = []
    for result in parallel_map(read_headers, files, workers, chunk=64):
        results.append(result)
        advance()
    unreadable = tuple(result for result in results if result.is_dicom and not result.frames)
    studies = _choose_studies(_sort_into_series(results))
    if not studies:
        raise ProstateError(_nothing_found(source, len(files), unreadable))
    studies = _name_studies(studies, out, keep_ids)
    make_data_folder(out)
    advance = progress("Importing", len(studies))
    outcomes = []
    for outcome in parallel_map(partial(import_study, out=out), studies, workers):
        outcomes.append(outcome)
        advance()
    return ImportResult(tuple(outcomes), {study.case_id: study.patient for study in studies}, unreadable)


def _nothing_found(source: Path, count: int, unreadable: Sequence[HeaderResult]) -> str:
    if unreadable:
        first = unreadable[0]
        return (
            f"None of the {count} files below {source} is a readable DICOM image; {len(unreadable)} are "
            f"damaged (first: {first.file}: {first.problem}). Copy them anew from the archive."
        )
    return (
        f"None of the {count} files below {source} is a DICOM image. Name the folder that holds the series."
    )


def _sort_into_series(results: Sequence[HeaderResult]) -> list[Series]:
    frames: dict[SeriesKey, list[Frame]] = defaultdict(list)
    facts: dict[SeriesKey, SeriesFacts] = {}
    for result in results:
        for key, fact, frame in result.frames:
            frames[key].append(frame)
            facts.setdefault(key, fact)
    return [
        series
        for key, group in frames.items()
        for series in split_echoes(Series(key, facts[key], tuple(group)))
    ]


def _choose_studies(series: Sequence[Series]) -> list[_Study]:
    """One study a patient: the one with most of T2, ADC and diffusion, of equals the latest."""
    by_study: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
    for one in series:
        by_study[one.key.patient, one.key.study].append(judge(one))
    by_patient: dict[str, list[list[Judgement]]] = defaultdict(list)
    for (patient, _), judgements in sorted(by_study.items()):
        by_patient[patient].append(judgements)

    def worth(judgements: list[Judgement]) -> tuple[int, str]:
        kinds = {judgement.kind for judgement in judgements}
        score = 4 * (T2 in kinds) + 2 * (DWI in kinds or COMPUTED in kinds) + (ADC in kinds)
        return score, max(judgement.series.facts.study_date for judgement in judgements)

    studies = []
    for patient, candidates in sorted(by_patient.items()):
        best = max(candidates, key=worth)
        left = [
            Judgement(judgement.series, OTHER, "another examination of this patient was taken")
            for judgements in candidates
            if judgements is not best
            for judgement in judgements
        ]
        studies.append(_Study(patient, (*best, *left)))
    return studies


def _name_studies(studies: Sequence[_Study], out: Path, keep_ids: bool) -> list[_Study]:
    """Give each study its old pseudonym if it was imported before, else the next free one."""
    keys = [hash_of([frame.uid for j in study.judgements for frame in j.series.frames]) for study in studies]
    parts = [_examinations(study) for study in studies]
    names = name_cases([study.patient for study in studies], keys, parts, out, keep_ids)
    return [
        replace(study, case_id=name, source_key=key, parts=own)
        for study, name, key, own in zip(studies, names, keys, parts, strict=True)
    ]


def _examinations(study: _Study) -> tuple[str, ...]:
    """Hashes of all of the patient's: a later import may choose another one."""
    uids = {judgement.series.key.study for judgement in study.judgements} - {""}
    # With the patient: in some data sets strangers share an examination's UID.
    return tuple(hash_of([f"patient {study.patient}", uid]) for uid in sorted(uids))


def import_study(study: _Study, out: Path) -> CaseOutcome:
    """Import one patient; what goes wrong with it is its outcome, not an exception."""
    outcome = CaseOutcome(study.case_id, study.source_key, parts=study.parts)
    before = known_case(out, study.case_id)
    if before is not None and before["source_key"] == study.source_key and is_complete(out, before):
        outcome.status, outcome.files = "unchanged", dict(before["files"])
        lines = [SeriesLine(**line) for line in before["series"]]
        outcome.series = [replace(line, label=_label_of(line, study.judgements)) for line in lines]
        return outcome
    if (out / study.case_id).exists():
        outcome.refuse_folder(out / study.case_id, before)
        return outcome
    try:
        images = _read_images(study.judgements, outcome)
        write_case(out, outcome, images)
    except ProstateError as error:
        outcome.status, outcome.reason = "failed", error.message
        outcome.public_reason = _without_paths(error.message, study, out)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one patient, the others are imported
        outcome.status, outcome.reason = "failed", f"{type(error).__name__}: {error}"
        outcome.public_reason = f"could not be read ({type(error).__name__})"
    return outcome


def _without_paths(text: str, study: _Study, out: Path) -> str:
    """The reason as the manifest may say it: paths of the source can hold names."""
    for judgement in study.judgements:
        for frame in judgement.series.frames:
            text = text.replace(str(frame.file), f"a file of series {judgement.series.facts.number}")
    return text.replace(str(out), "the data folder")


def _read_images(judgements: Sequence[Judgement], outcome: CaseOutcome) -> list[NamedImage]:
    reasons = {id(j.series): j.reason for j in judgements}
    left: list[tuple[Series, str, str]] = [
        (j.series, j.kind, j.reason) for j in judgements if j.kind == OTHER
    ]
    taken: list[_Taken] = []
    reference: Series | None = None
    for kind in (T2, ADC):
        candidates = [j.series for j in judgements if j.kind == kind]
        if candidates:
            best, others = choose(candidates, kind, reference)
            reference = best if kind == T2 else reference
            taken.append(_Taken(best, kind, {_STEMS[kind]: best.frames}))
            left += [(series, kind, reason) for series, reason in others]
    if reference is None:
        kinds = sorted({j.kind for j in judgements} - {OTHER}) or ["nothing of use"]
        raise UnreadableVolumeError(
            f"no axial T2 series (found: {', '.join(kinds)}), and every case needs one"
        )
    for kind in (DWI, COMPUTED):
        more, passed = _by_b_value([j.series for j in judgements if j.kind == kind], kind, reference)
        taken += more
        left += [(series, kind, "another series of these b-values was preferred") for series in passed]
    images = [
        _image(stem, frames, one.series.facts.number) for one in taken for stem, frames in one.images.items()
    ]
    _say_series(outcome, taken, left, reasons, images)
    return images


_STEMS = {T2: "ax_t2wi", ADC: "ax_adc"}


@dataclass(frozen=True)
class _Taken:
    """A series that becomes outputs: stem → frames."""

    series: Series
    kind: str
    images: dict[str, Sequence[Frame]]


def _by_b_value(
    candidates: Sequence[Series], kind: str, reference: Series
) -> tuple[list[_Taken], list[Series]]:
    """Every b-value once, each from the best series that has it: some scanners write one series a b-value."""
    taken: list[_Taken] = []
    passed: list[Series] = []
    have: set[int] = set()
    for series in ranked(candidates, kind, reference):
        if kind == COMPUTED:
            frames = {round(computed_b_value(series) or 0): list(series.frames)}
        else:
            frames = {}
            for frame in series.frames:
                if frame.b_value is not None:
                    frames.setdefault(round(frame.b_value), []).append(frame)
        ending = "_calc" if kind == COMPUTED else ""
        images = {f"ax_dwi_b{value}{ending}": frames[value] for value in sorted(frames) if value not in have}
        have |= set(frames)
        if images:
            taken.append(_Taken(series, kind, dict(images)))
        else:
            passed.append(series)
    return taken, passed


def _image(stem: str, frames: Sequence[Frame], number: int) -> NamedImage:
    stack = stack_frames(frames, f"series {number} ({stem})")
    files = tuple(dict.fromkeys(str(frame.file) for group in stack.places for frame in group))
    return NamedImage(stem, read_stack(stack), number, files)


def _say_series(
    outcome: CaseOutcome,
    taken: Sequence[_Taken],
    left: Sequence[tuple[Series, str, str]],
    reasons: dict[int, str],
    images: Sequence[NamedImage],
) -> None:
    for one in taken:
        notes = tuple(note for image in images if image.stem in one.images for note in image.volume.notes)
        outcome.series.append(
            _line(one.series, one.kind, True, reasons[id(one.series)], tuple(dict.fromkeys(notes)))
        )
    outcome.series += [_line(series, kind, False, reason) for series, kind, reason in left]
    outcome.series.sort(key=lambda line: line.number)


def _line(series: Series, kind: str, taken: bool, reason: str, notes: tuple[str, ...] = ()) -> SeriesLine:
    values = tuple(sorted({frame.b_value for frame in series.frames if frame.b_value is not None}))
    facts = series.facts
    return SeriesLine(facts.number, kind, taken, reason, places_of(series), values, notes, facts.description)


def _label_of(line: SeriesLine, judgements: Sequence[Judgement]) -> str:
    """The description of a line of an earlier import, "" if two series with different ones may be meant."""
    lines = [
        _line(j.series, j.kind, False, j.reason) for j in judgements if j.series.facts.number == line.number
    ]
    same = [
        o for o in lines if (o.kind, o.slices, o.b_values) == (line.kind, line.slices, tuple(line.b_values))
    ]
    for fitting in (lines, same, [other for other in same if other.reason == line.reason]):
        labels = {other.label for other in fitting}
        if len(labels) == 1:
            return labels.pop()
    return ""
