"""`prostate-ssl split ROOT --out DIR`: train.csv, val.csv, test.csv."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from prostate_ssl.data.layout import Case


def command(
    root: Path = typer.Argument(..., help="Data folder: one folder a patient."),
    out: Path = typer.Option(..., "--out", help="Folder for train.csv, val.csv and test.csv."),
    labels: Path | None = typer.Option(
        None, "--labels", help="CSV with patient_id and label; default: labels.csv in ROOT, if there."
    ),
    label_column: str | None = typer.Option(
        None, "--label-column", help="Column to stratify by; default: label."
    ),
    shares: str = typer.Option("70,15,15", "--shares", help="Of train, validation, test."),
    seed: int = typer.Option(0, "--seed", min=0),
    if_labelled: bool = typer.Option(
        False, "--if-labelled", help="Do nothing where there are no labels (two patients need no lists)."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Deal patients to train, validation and test: 70/15/15, stratified by label."""
    from prostate_ssl.data.splitting import LISTS, split_patients
    from prostate_ssl.data.tables import write_patient_table
    from prostate_ssl.errors import ProstateError

    # Two patients need no lists, and a column that is asked for need not be everywhere then.
    needed = labels is not None or (label_column is not None and not if_labelled)
    names, known = _patients(root, labels, label_column, needed)
    if not known and if_labelled:
        note = f"No labels for {root}: no lists were written, every patient is used."
        print(
            json.dumps({"schema": "prostate-ssl/split/1", "written": [], "note": note}) if as_json else note
        )
        return
    try:
        parts = tuple(float(part) / 100.0 for part in shares.split(","))
    except ValueError:
        raise ProstateError(f"--shares {shares} should be three numbers, as 70,15,15.", exit_code=2) from None
    strata = [_stratum(known.get(name, "")) for name in names] if known else None
    split = split_patients(names, strata, seed, parts)
    counts = {}
    for name in LISTS:
        ids = list(getattr(split, name))
        try:
            write_patient_table(out / f"{name}.csv", ids, [known.get(i, "") for i in ids] if known else None)
        except OSError as error:
            raise ProstateError(f"{out / name}.csv could not be written: {error}.") from error
        counts[name] = len(ids)
    _report(out, counts, as_json, stratified=bool(known))


def _patients(
    root: Path, labels: Path | None, column: str | None, needed: bool
) -> tuple[list[str], dict[str, str]]:
    """Names below the root, and the labels of those that have one; what is odd about them goes to stderr.

    A list that was only found may be about something else: unless its labels are needed it ends nothing.
    """
    from prostate_ssl.data.layout import discover_cases
    from prostate_ssl.data.tables import LABEL_COLUMN
    from prostate_ssl.errors import ProstateError

    cases = discover_cases(root)
    names = [case.case_id for case in cases]
    path = labels or root / "labels.csv"
    if labels is None and not path.is_file():
        if needed:
            raise ProstateError(
                f"There is no {path} to read the column '{column}' from; name a list with --labels.",
                exit_code=2,
            )
        return names, {}
    try:
        given, notes = _labels_in(path, column or LABEL_COLUMN, cases)
    except ProstateError as error:
        if needed:
            raise
        _say([f"{error.message.rstrip('.')}. Nobody named this list: no labels are taken from it"])
        return names, {}
    known = {name: given[name] for name in names if given.get(name)}
    named = labels is not None or column is not None
    if named and not known:
        notes.append(f"{path.name}: no patient has a label, so the lists are not stratified")
    known, said = _usable(path, known, named)
    _say([*notes, *said])
    return names, known


def _labels_in(path: Path, column: str, cases: Sequence[Case]) -> tuple[dict[str, str], list[str]]:
    """Patient → label of a list, and what there is to say of it.

    Raises:
        ProstateError: it cannot be read, lacks the column, or names no patient of the folder.
    """
    from prostate_ssl.data.listed import listed_cases
    from prostate_ssl.data.tables import read_patient_table, read_rows
    from prostate_ssl.errors import ProstateError

    table = read_patient_table(path, column)
    if table.labels is None and table.column not in {case.case_id for case in cases}:
        there = [name for name in read_rows(path)[0] if name]
        by_letters = {name.lower(): name for name in there}
        near = difflib.get_close_matches(column.lower(), by_letters, n=1)
        meant = f", as '{by_letters[near[0]]}'" if near else ""
        raise ProstateError(
            f"{path} has no column '{column}' (it has: {', '.join(there)}); name another with "
            f"--label-column{meant}.",
            exit_code=2,
        )
    _, said = listed_cases(table, cases)  # tells a list without a header that it has none
    return dict(zip(table.ids, table.labels or (), strict=True)), [*table.warnings, *said]


def _usable(path: Path, known: dict[str, str], named: bool) -> tuple[dict[str, str], list[str]]:
    """Without labels that are no class numbers, unless the user named the list or its column."""
    from prostate_ssl.data.tables import class_number

    odd = [name for name, label in known.items() if class_number(label) is None]
    if not odd:
        return known, []
    said = (
        f"{path.name}: {len(odd)} of {len(known)} labels, such as '{known[odd[0]]}' of {odd[0]}, are no "
        "class numbers (0, 1, 2, …; empty: unknown): "
    )
    if named:
        said += "the lists are stratified by them, but evaluate and finetune refuse such lists"
        return known, [said]
    said += f"they are left out; --labels {path} stratifies by them all the same"
    return {name: label for name, label in known.items() if class_number(label) is not None}, [said]


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr)


def _stratum(label: str) -> str:
    """`1`, `1.0` and `01` are one class; other labels stand for themselves."""
    from prostate_ssl.data.tables import class_number

    number = class_number(label)
    return label if number is None else str(number)


def _report(out: Path, counts: dict[str, int], as_json: bool, stratified: bool) -> None:
    if as_json:
        document = {
            "schema": "prostate-ssl/split/1",
            "counts": counts,
            "stratified": stratified,
            "out": str(out),
        }
        print(json.dumps(document))
        return
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"{listed}{' (stratified by label)' if stratified else ''}: {out}")
