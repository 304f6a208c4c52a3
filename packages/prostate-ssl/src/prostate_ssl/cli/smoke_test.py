"""`prostate-ssl smoke-test`: five steps before the long run."""

from __future__ import annotations

import os
from typing import Annotated

import typer


def command(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value …", show_default=False)
    ] = None,
    data: Annotated[
        str, typer.Option("--data", help="Folder of cases; default $PROSTATE_DATA_ROOT, else phantoms.")
    ] = "",
    config_file: Annotated[str, typer.Option("--config-file", help="YAML file or preset.")] = "",
) -> int:
    """Train five steps on a few cases, and predict memory and time of the whole run."""
    from prostate_ssl.training.smoke import run_smoke_test

    return run_smoke_test(
        config_file, data or os.environ.get("PROSTATE_DATA_ROOT", ""), tuple(overrides or ())
    )
