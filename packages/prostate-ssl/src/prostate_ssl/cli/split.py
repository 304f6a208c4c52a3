"""`prostate-ssl split ROOT --out DIR`: train.csv, val.csv, test.csv."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import typer


def command(
    root: Path = typer.Argument(..., help="Data folder: one folder a patient."),
    out: Path = typer.Option(..., "--out", help="Folder for train.csv, val.csv and test.csv."),
    labels: Path | None = typer.Option(
        None, "--labels", help="CSV with patient_id and label; default: labels.csv in ROOT, if there."
    ),
    label_column: str = typer.Option("label", "--label-column", help="Column to stratify by."),
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

    names, known = _patients(root, labels, label_column)
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


def _patients(root: Path, labels: Path | None, column: str) -> tuple[list[str], dict[str, str]]:
    """Names below the root, and the labels of those that have one; what is odd about them goes to stderr."""
    from prostate_ssl.data.layout import discover_cases
    from prostate_ssl.data.listed import listed_cases
    from prostate_ssl.data.tables import class_number, read_patient_table, read_rows
    from prostate_ssl.errors import ProstateError

    cases = discover_cases(root)
    names = [case.case_id for case in cases]
    path = labels or (root / "labels.csv" if (root / "labels.csv").is_file() else None)
    if path is None:
        return names, {}
    table = read_patient_table(path, column)
    if table.labels is None:
        there = ", ".join(filter(None, read_rows(path)[0]))
        lacks = f"{path} has no column '{column}' (it has: {there})"
        if labels is None:  # nobody asked for this list, and it may be about something else
            _say([*table.warnings, f"{lacks}: no labels are taken from it"])
            return names, {}
        listed_cases(table, cases)  # a list without a header is told that, first
        raise ProstateError(f"{lacks}; name another with --label-column.", exit_code=2)
    _, said = listed_cases(table, cases)
    notes = [*table.warnings, *said]
    given = dict(zip(table.ids, table.labels, strict=True))
    known = {name: given[name] for name in names if given.get(name)}
    if labels is not None and not known:
        notes.append(f"{path.name}: no patient has a label, so the lists are not stratified")
    odd = [name for name, label in known.items() if class_number(label) is None]
    if odd:
        notes.append(
            f"{path.name}: {len(odd)} of {len(known)} labels, such as '{known[odd[0]]}' of {odd[0]}, are no "
            "class numbers (0, 1, 2, …; empty: unknown): the lists are stratified by them, but evaluate and "
            "finetune refuse such lists"
        )
    _say(notes)
    return names, known


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
