"""`prostate-ssl finetune`: segmentation and classification on top of the backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prostate_ssl.cli.configuration import stage


def command(
    task: Annotated[str, typer.Argument(help="segmentation or classification.")],
    run: Annotated[Path, typer.Option("--run", help="Folder of the training.")],
    data: Annotated[str, typer.Option("--data", help="Folder of cases.")],
    train_csv: Annotated[str, typer.Option("--train-csv", help="Patients to learn from.")],
    val_csv: Annotated[str, typer.Option("--val-csv", help="Patients to judge on.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for model.pth and results.json.")],
    full: Annotated[bool, typer.Option("--full", help="Train the backbone too.")] = False,
    share: Annotated[
        float, typer.Option("--percentage-labels", min=0, max=1, help="Few-shot: share of labels (or masks).")
    ] = 1.0,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 30,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 8,
    lr: Annotated[float, typer.Option("--lr", min=0, max=100, help="Learning rate of the head.")] = 2e-3,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="From the initial weights, to compare.")
    ] = False,
    weights: Annotated[Path | None, typer.Option("--weights", help="Another checkpoint.")] = None,
) -> int:
    """Learn a task on labelled cases, with the backbone frozen (default) or trained along."""
    from prostate_ssl.downstream.run import finetune
    from prostate_ssl.downstream.segmentation import FinetuneSettings

    settings = FinetuneSettings(epochs, batch_size, lr, not full, seed)
    with stage(run, f"fine-tune {task}"):
        document = finetune(
            task, run, data, (train_csv, val_csv), out, settings, share, untrained=untrained, weights=weights
        )
    metrics = document["metrics"] if task == "classification" else {"dice": document["dice"]}
    print("  ".join(f"{k} {v:.3f}" for k, v in metrics.items() if v is not None))  # type: ignore[attr-defined]
    print(out / "results.json")
    return 0
