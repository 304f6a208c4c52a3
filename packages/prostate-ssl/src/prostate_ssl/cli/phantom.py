"""`prostate-ssl phantom OUT --cases N`: synthetic cases."""

from __future__ import annotations

from pathlib import Path

import typer


def command(
    out: Path = typer.Argument(..., help="Folder for the cases; made if missing."),
    cases: int = typer.Option(12, "--cases", min=1, help="How many."),
    seed: int = typer.Option(0, "--seed", min=0, help="Another seed, other patients."),
    size: str = typer.Option("192x16", "--size", help="Pixels a side and slices of the T2 image, as 384x24."),
    workers: int = typer.Option(1, "--workers", min=1, help="Processes."),
) -> None:
    """Write synthetic multi-parametric cases with gland, lesions and labels.csv; existing ones stay."""
    from prostate_ssl.cli.progress import progress_bar
    from prostate_ssl.data.phantom import PhantomSettings, write_phantoms
    from prostate_ssl.errors import ProstateError

    try:
        side, slices = (int(part) for part in size.lower().split("x"))
    except ValueError:
        raise ProstateError(f"--size {size} should be pixels and slices, as 384x24.", exit_code=2) from None
    settings = PhantomSettings(size=side, slices=slices, seed=seed)
    try:
        with progress_bar("Phantoms", cases) as advance:
            written = write_phantoms(out, cases, settings, workers, advance)
    except OSError as error:
        raise ProstateError(f"The phantom cases could not be written to {out}: {error}.") from error
    print(f"{len(written)} cases written, {cases - len(written)} were there: {out} (labels.csv beside them)")
