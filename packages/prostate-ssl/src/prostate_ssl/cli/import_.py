"""`prostate-ssl import dicom|mha|bids|nifti SRC --out DATA`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from prostate_ssl.data.importing.files import SourcePatient
    from prostate_ssl.data.importing.outcome import CaseOutcome

group = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    help="Turn DICOM, .mha, BIDS or loose NIfTI into one folder a patient, everything on the T2 grid.",
)  # fmt: skip

_SOURCE = typer.Argument(..., help="Where the images are; never changed.")
_OUT = typer.Option(..., "--out", help="Data folder to write; cases that are there and whole are left alone.")
_WORKERS = typer.Option(0, "--workers", min=0, help="Processes; 0: as many as there are cores, up to 8.")
_SOURCES = typer.Option(
    None,
    "--sources",
    help="Also write which source became what to this file. It names patients: keep it safe.",
)
_KEEP = typer.Option(False, "--keep-ids", help="Name folders after the source's IDs instead of pseudonyms.")
_JSON = typer.Option(False, "--json", help="Print the manifest as JSON.")


@group.callback()
def _root() -> None:
    pass


@group.command("dicom")
def dicom(
    source: Path = _SOURCE,
    out: Path = _OUT,
    workers: int = _WORKERS,
    sources: Path | None = _SOURCES,
    keep_ids: bool = _KEEP,
    as_json: bool = _JSON,
) -> int:
    """A tree of DICOM files: axial T2, ADC and every b-value, recognised by their tags."""
    from prostate_ssl.data.importing.dicom import import_dicom

    _check(sources)
    with _bars() as progress:
        result = import_dicom(source, out, _count(workers), keep_ids, progress)
    for damaged in result.unreadable:
        typer.echo(f"warning: {damaged.file}: {damaged.problem}", err=True)
    return _finish("dicom", out, result.outcomes, result.source_ids, sources, len(result.unreadable), as_json)


@group.command("mha")
def mha(
    source: Path = _SOURCE,
    out: Path = _OUT,
    workers: int = _WORKERS,
    sources: Path | None = _SOURCES,
    keep_ids: bool = _KEEP,
    as_json: bool = _JSON,
) -> int:
    """PI-CAI / grand-challenge: <patient>_<study>_{t2w,adc,hbv}.mha, in folders or not."""
    from prostate_ssl.data.importing.files import find_picai

    wanted = "<patient>_<study>_t2w.mha, …_adc.mha, …_hbv.mha"
    return _import_found("mha", find_picai(source), wanted, source, out, workers, sources, keep_ids, as_json)


@group.command("bids")
def bids(
    source: Path = _SOURCE,
    out: Path = _OUT,
    workers: int = _WORKERS,
    sources: Path | None = _SOURCES,
    keep_ids: bool = _KEEP,
    as_json: bool = _JSON,
) -> int:
    """A BIDS data set: anat/*_T2w, dwi/*_dwi with .bval, ADC maps and gland masks."""
    from prostate_ssl.data.importing.files import find_bids

    wanted = "sub-*/anat/*_T2w.nii.gz"
    return _import_found("bids", find_bids(source), wanted, source, out, workers, sources, keep_ids, as_json)


@group.command("nifti")
def nifti(
    source: Path = _SOURCE,
    mapping: Path = typer.Option(..., "--mapping", help="CSV: patient_id, file (below SRC), sequence."),
    out: Path = _OUT,
    workers: int = _WORKERS,
    sources: Path | None = _SOURCES,
    keep_ids: bool = _KEEP,
    as_json: bool = _JSON,
) -> int:
    """Loose NIfTI (or .mha) files, with a mapping that says what each one is."""
    from prostate_ssl.data.importing.files import find_mapped

    patients = find_mapped(source, mapping)
    return _import_found("nifti", patients, "a mapping", source, out, workers, sources, keep_ids, as_json)


def _import_found(
    kind: str,
    patients: Sequence[SourcePatient],
    wanted: str,
    source: Path,
    out: Path,
    workers: int,
    sources: Path | None,
    keep_ids: bool,
    as_json: bool,
) -> int:
    from prostate_ssl.data.importing.files import import_patients
    from prostate_ssl.errors import ProstateError

    if not patients:
        raise ProstateError(f"No patient was found below {source}: {wanted} is looked for.")
    _check(sources)
    with _bars() as progress:
        outcomes, names = import_patients(patients, out, _count(workers), keep_ids, progress)
    return _finish(kind, out, outcomes, names, sources, 0, as_json)


def _check(sources: Path | None) -> None:
    """Say now, not after the import, that the record of who is who cannot go there."""
    from prostate_ssl.data.importing.outcome import read_sources

    if sources is not None:
        read_sources(sources)


def _count(workers: int) -> int:
    import os

    return workers or min(
        8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


@contextmanager
def _bars() -> Iterator[Callable[[str, int], Callable[[], None]]]:
    from contextlib import ExitStack

    from prostate_ssl.cli.progress import progress_bar

    with ExitStack() as stack:

        def start(title: str, total: int) -> Callable[[], None]:
            stack.close()
            return stack.enter_context(progress_bar(title, total))

        yield start


def _finish(
    kind: str,
    out: Path,
    outcomes: Sequence[CaseOutcome],
    source_ids: dict[str, str],
    sources: Path | None,
    unread: int,
    as_json: bool,
) -> int:
    """Write the manifest, print the table, choose the exit code: 1 if a patient or a file failed."""
    import json

    from prostate_ssl.data.importing.outcome import REPORT_NAME, write_manifest, write_sources
    from prostate_ssl.errors import ProstateError

    write_manifest(out, kind, outcomes, unread)
    if sources is not None:
        write_sources(sources, outcomes, source_ids)
    if as_json:
        print(json.dumps(json.loads((out / REPORT_NAME).read_text(encoding="utf-8")), indent=2))
    else:
        _print_outcomes(outcomes)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed or unread:
        faults = [f"{outcome.case_id}: {outcome.reason}" for outcome in failed[:5]]
        if unread:
            faults.append(f"{unread} damaged files, named above")
        raise ProstateError(
            f"{len(outcomes) - len(failed)} of {len(outcomes)} patients were imported to {out}. "
            + f"Not in order: {'; '.join(faults)}"
            + ". Mend or remove these and run the same command again: what is imported stays."
        )
    return 0


def _print_outcomes(outcomes: Sequence[CaseOutcome]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    console = Console()
    if not console.is_terminal:
        console.width = 80
    for outcome in outcomes:
        console.print(outcome.case_id, style="bold", highlight=False)
        if not outcome.series:
            console.print(f"  {outcome.reason}", highlight=False)
            continue
        table = Table(
            Column("series", justify="right"),
            Column("description", overflow="fold"),
            "taken as",
            "why",
            box=None,
        )
        for line in outcome.series:
            why = "; ".join((line.reason, *line.notes))
            table.add_row(str(line.number), line.label, line.kind if line.taken else "–", why)
        console.print(table)
    tally = {
        name: sum(outcome.status == name for outcome in outcomes)
        for name in ("imported", "unchanged", "failed")
    }
    console.print(", ".join(f"{count} {name}" for name, count in tally.items()), highlight=False)
