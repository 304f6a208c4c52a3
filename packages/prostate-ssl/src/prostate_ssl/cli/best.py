"""`prostate-ssl best`: which checkpoint to take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="Folder of the training.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Print the best checkpoint: by validation metric, else by the lowest loss."""
    from prostate_ssl.evaluation.best import best_checkpoint

    best = best_checkpoint(run)
    if as_json:
        print(json.dumps({"schema": "prostate-ssl/best/1", "path": str(best.path), "reason": best.reason}))
    else:
        print(f"{best.path}\n{best.reason}")
    return 0
