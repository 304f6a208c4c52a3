"""`prostate-ssl cache ROOT --out CACHE`: decode, resample and clip every case once."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from prostate_ssl.data.layout import Case


def command(
    root: Path = typer.Argument(..., help="Data folder: one folder a patient."),
    out: Path = typer.Option(..., "--out", help="Cache folder; train with train.cache_dir=CACHE."),
    split: Path | None = typer.Option(None, "--split", help="CSV list of the patients to cache."),
    sequences: str = typer.Option("ax_t2wi,ax_adc,ax_dwi", "--sequences", help="Modalities, in order."),
    workers: int = typer.Option(2, "--workers", min=1, help="Processes."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> int:
    """Prepare every case once. A changed source rebuilds just its case; damaged files are rebuilt."""
    from prostate_ssl.cli.progress import progress_bar
    from prostate_ssl.data.importing.parallel import parallel_map
    from prostate_ssl.data.layout import discover_cases
    from prostate_ssl.data.listed import listed_cases
    from prostate_ssl.data.tables import find_split_csv, read_patient_table

    cases = discover_cases(root)
    if split is not None:
        table = read_patient_table(find_split_csv(str(split), root))
        cases, said = listed_cases(table, cases)
        for text in (*table.warnings, *said):
            print(text, file=sys.stderr)
    names = tuple(name.strip() for name in sequences.split(",") if name.strip())
    rows: list[dict[str, Any]] = []
    with progress_bar("Caching", len(cases)) as advance:
        for row in parallel_map(partial(_cache_one, out, names), cases, workers):
            rows.append(row)
            advance()
    tally = {
        status: sum(row["status"] == status for row in rows) for status in ("built", "unchanged", "failed")
    }
    megabytes = sum(int(row["bytes"]) for row in rows) / 1e6
    if as_json:
        document = {"schema": "prostate-ssl/cache/1", "out": str(out), "counts": tally, "cases": rows}
        print(json.dumps(document, indent=2))
    else:
        for row in rows:
            for note in row["notes"]:
                print(f"{row['case_id']}: {note}")
        print(f"{', '.join(f'{n} {status}' for status, n in tally.items())}; {megabytes:.0f} MB: {out}")
    return 1 if tally["failed"] else 0


def _cache_one(out: Path, names: tuple[str, ...], case: Case) -> dict[str, Any]:
    from prostate_ssl.data.cache import CaseCache
    from prostate_ssl.errors import UnreadableVolumeError

    try:
        cached, built = CaseCache(out, names).ensure(case)
    except (UnreadableVolumeError, OSError) as error:
        return {"case_id": case.case_id, "status": "failed", "bytes": 0, "notes": [str(error)]}
    status = "built" if built else "unchanged"
    return {
        "case_id": case.case_id,
        "status": status,
        "bytes": cached.blocks.nbytes,
        "notes": list(cached.notes),
    }
