"""`prostate-ssl extract`: features of cases as a table, and their tokens."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from prostate_ssl.cli.configuration import run_config, stage


def command(
    # torchrun takes `--run` for its own --run-path, even after the program's name.
    run: Annotated[Path, typer.Option("--run", "--run-folder", help="Folder of the training.")],
    data: Annotated[str, typer.Option("--data", help="Folder of cases.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for features.csv and tokens/.")],
    weights: Annotated[Path | None, typer.Option("--weights", help="Another checkpoint.")] = None,
    split_csv: Annotated[
        str, typer.Option("--split-csv", help="List of patients; default all folders.")
    ] = "",
    slices: Annotated[str, typer.Option("--slices", help="one, gland or all.")] = "one",
) -> int:
    """Write CLS and patch tokens; what is done stays.

    Several ranks share the cases:
    torchrun --nproc_per_node=N -m prostate_ssl.cli.main extract --run-folder RUN …
    """
    from prostate_ssl.errors import ProstateError
    from prostate_ssl.evaluation.backbone import load_backbone
    from prostate_ssl.evaluation.extract import extract
    from prostate_ssl.evaluation.run import labelled_dataset, print_remarks
    from prostate_ssl.training.session import open_session

    if slices not in ("one", "gland", "all"):
        raise ProstateError(f"--slices {slices}: choose one, gland or all.", 2)
    with open_session(run_config(run)) as session, stage(run, "extract features", session.is_main):
        if not session.is_main:  # what there is to say of the list, one rank says
            logging.getLogger("prostate_ssl").setLevel(logging.ERROR)
        backbone = load_backbone(run, weights, device=session.device)  # each rank's own GPU
        dataset = labelled_dataset(backbone.cfg, data, "TEST", split_csv)
        done = extract(backbone, dataset, out, session, slices=slices)
    for case, reason in done.refused:
        print(f"left out {case}: {reason}")
    print_remarks(dataset)
    if session.is_main:
        shared = f" by {session.world_size} processes" if session.world_size > 1 else ""
        print(f"{done.made} cases computed{shared}, {done.kept} were there: {done.table}")
    return 0
