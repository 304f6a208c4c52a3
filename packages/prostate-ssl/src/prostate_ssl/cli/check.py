"""`prostate-ssl check ROOT`: a table of what is there and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from prostate_ssl.data.checking import CheckReport


def command(
    root: Path = typer.Argument(..., help="Data folder: one folder a patient."),
    split: Path | None = typer.Option(None, "--split", help="CSV list of the patients to check."),
    strict: bool = typer.Option(False, "--strict", help="Exit 1 on warnings too."),
    workers: int = typer.Option(2, "--workers", min=1, help="Threads."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> int:
    """Check files, geometry, intensities, masks, duplicates and b-values. Exit 0 fine, 1 errors."""
    from prostate_ssl.cli.progress import progress_bar
    from prostate_ssl.data.checking import ERROR, WARNING, check_folder
    from prostate_ssl.data.layout import discover_cases
    from prostate_ssl.data.tables import find_split_csv, read_patient_table

    table = read_patient_table(find_split_csv(str(split), root)) if split is not None else None
    with progress_bar("Checking", len(table.ids) if table else len(discover_cases(root))) as advance:
        report = check_folder(root, table, workers=workers, progress=advance)
    if as_json:
        print(json.dumps(_document(report), indent=2))
    else:
        _print_table(report)
    return 1 if report.count(ERROR) or (strict and report.count(WARNING)) else 0


def _document(report: CheckReport) -> dict[str, object]:
    from dataclasses import asdict

    from prostate_ssl.data.checking import ERROR, INFO, WARNING

    return {
        "schema": "prostate-ssl/check/1",
        "root": str(report.root),
        "counts": {name: report.count(name) for name in (ERROR, WARNING, INFO)},
        "cases": [
            {"case_id": case.case_id, "files": case.files, "b_value": case.b_value} for case in report.cases
        ],
        "remarks": [asdict(remark) for remark in report.remarks],
    }


def _print_table(report: CheckReport) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from prostate_ssl.data.checking import ERROR, INFO, WARNING
    from prostate_ssl.data.layout import MASK_NAME

    console = Console()
    if not console.is_terminal:
        console.width = 140
    table = Table(Column("case", no_wrap=True), "T2", "ADC", "DWI", "b", "mask", "remarks")
    for case in report.cases:
        shapes = []
        for name in ("ax_t2wi", "ax_adc", "ax_dwi", MASK_NAME):
            shape = case.files.get(name, {}).get("shape")
            shapes.append("×".join(str(n) for n in shape[::-1]) if isinstance(shape, list) else "–")
        tally = [sum(r.severity == level for r in case.remarks) for level in (ERROR, WARNING, INFO)]
        remarks = ", ".join(
            f"{n} {level}" for n, level in zip(tally, (ERROR, WARNING, INFO), strict=True) if n
        )
        b_value = "–" if case.b_value is None else str(case.b_value)
        table.add_row(case.case_id, *shapes[:3], b_value, shapes[3], remarks or "fine")
    console.print(table)
    for remark in report.remarks:
        if remark.severity != INFO:
            console.print(
                f"{remark.severity}: {remark.subject}: {remark.text}", markup=False, highlight=False
            )
    counts = f"{report.count(ERROR)} errors, {report.count(WARNING)} warnings, {report.count(INFO)} remarks"
    console.print(f"{len(report.cases)} cases: {counts} (all of them with --json)", highlight=False)
