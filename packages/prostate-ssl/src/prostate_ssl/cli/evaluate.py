"""`prostate-ssl evaluate`: probes on a run's frozen features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prostate_ssl.cli.configuration import run_config, stage


def command(
    run: Annotated[Path, typer.Option("--run", help="Folder of the training.")],
    data: Annotated[str, typer.Option("--data", help="Folder of cases.")] = "",
    train_csv: Annotated[str, typer.Option("--train-csv", help="Patients that the probe learns from.")] = "",
    val_csv: Annotated[str, typer.Option("--val-csv", help="Patients that it is judged on.")] = "",
    weights: Annotated[Path | None, typer.Option("--weights", help="Another checkpoint.")] = None,
    loo: Annotated[
        bool, typer.Option("--leave-one-out", help="For a dozen cases: a plumbing check.")
    ] = False,
    missing: Annotated[
        bool, typer.Option("--missing-modalities", help="The probe with every subset.")
    ] = False,
    test: Annotated[
        bool, typer.Option("--test", help="Judge on the run's evaluation.test_dataset_path.")
    ] = False,
) -> int:
    """Logistic regression and k-NN, beside the untrained network and intensity histograms."""
    from prostate_ssl.config.dataset_string import as_trained
    from prostate_ssl.config.loading import literal
    from prostate_ssl.errors import ProstateError
    from prostate_ssl.evaluation.backbone import load_backbone
    from prostate_ssl.evaluation.run import (
        evaluate_leave_one_out,
        evaluate_run,
        labelled_dataset,
        print_document,
    )

    cfg = run_config(run)
    cfg.train.output_dir = literal(str(run))
    if loo:
        if not data:
            raise ProstateError("--leave-one-out needs --data FOLDER.", 2)
        with stage(run, "leave-one-out probe"):
            backbone = load_backbone(run, weights)
            dataset = labelled_dataset(backbone.cfg, data, "TEST", train_csv)
            document = evaluate_leave_one_out(backbone, dataset, run / "eval" / "leave_one_out.json", run)
        print_document(document)
        return 0
    if data:
        if test:
            raise ProstateError("--test is for the run's own lists; with --data, name it as --val-csv.", 2)
        if not (train_csv and val_csv):
            raise ProstateError(
                "With --data, name two lists: --train-csv and --val-csv (`prostate-ssl split` makes them).",
                2,
            )
        for key, name, split in (("train", train_csv, "TRAIN"), ("val", val_csv, "VAL")):
            text = as_trained(cfg.train.dataset_path, data, split, name, name="ProstateSupervised")
            cfg.evaluation[f"{key}_dataset_path"] = literal(text)
        cfg.evaluation.metric_types = ["auc", "mcc", "accuracy", "f1"]
    with stage(run, "missing modalities" if missing else "probe"):
        return evaluate_run(cfg, missing_sequences=missing, weights=weights, test=test)
