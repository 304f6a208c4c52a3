"""`prostate-ssl train`: pre-train, or go on where the last call stopped."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from prostate_ssl.cli.configuration import configured, note_stage
from prostate_ssl.errors import ProstateError

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": False}


def command(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value …", show_default=False)
    ] = None,
    config_file: Annotated[
        str, typer.Option("--config-file", help="YAML file, or the name of a preset.")
    ] = "prostate_vitb14_mm-dino",
    output_dir: Annotated[str, typer.Option("--output-dir", "--output_dir", help="Where the run lies.")] = "",
    data: Annotated[str, typer.Option("--data", help="Folder of cases; sets root= of the dataset.")] = "",
    split_csv: Annotated[str, typer.Option("--split-csv", help="List of the patients to train on.")] = "",
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="Start anew; the old run's files are removed.")
    ] = False,
    eval_only: Annotated[
        bool, typer.Option("--eval-only", help="Only probe the last (or best) teacher.")
    ] = False,
    eval_type: Annotated[str, typer.Option("--eval", help="With --eval-only: missing_sequences.")] = "",
) -> int:
    """Pre-train with DINO, iBOT and KoLeo. The same command again goes on from the last checkpoint.

    Several GPUs: torchrun --nproc_per_node=N -m prostate_ssl.train (the same options).
    """
    if eval_type not in ("", "missing_sequences") or (eval_type and not eval_only):
        raise ProstateError(f"--eval {eval_type}: with --eval-only it may be missing_sequences.", 2)
    cfg = configured(config_file, overrides or [], output_dir=output_dir, data=data, split_csv=split_csv)
    if eval_only:
        from prostate_ssl.evaluation.run import evaluate_run

        return evaluate_run(cfg, missing_sequences=eval_type == "missing_sequences")
    from prostate_ssl.training.session import is_main_rank
    from prostate_ssl.training.trainer import train

    begun = time.perf_counter()
    outcome = train(cfg, resume=not no_resume)
    if is_main_rank() and not outcome.did_nothing:
        note_stage(
            Path(cfg.train.output_dir), "pre-training", time.perf_counter() - begun, add=outcome.resumed
        )
    return 128 + outcome.stopped_by if outcome.stopped_by else 0
