"""`prostate-ssl report`: one page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="Folder of the training.")],
    sections: Annotated[
        Path | None, typer.Option("--sections", help="Write the sections as JSON into this file instead.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="HTML file; default RUN/report.html.")] = None,
) -> int:
    """Loss curves, signs of health, probes, pictures and configuration on one page."""
    from prostate_ssl.cli.configuration import read_stages
    from prostate_ssl.report.page import write_page, write_sections
    from prostate_ssl.report.sections import collect_sections

    found = collect_sections(run)
    title = f"Pre-training {run.resolve().name}"
    if sections is not None:
        write_sections(title, found, read_stages(run), sections.absolute())
        print(sections)
        return 0
    path = out or run / "report.html"
    write_page(title, found, path)
    print(path)
    return 0
