"""`prostate-ssl visualize`: PCA and attention over the slices of a case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prostate_ssl.cli.configuration import stage


def command(
    run: Annotated[Path, typer.Option("--run", help="Folder of the training.")],
    data: Annotated[str, typer.Option("--data", help="Folder of cases.")],
    case: Annotated[str, typer.Option("--case", help="Which case; default the first.")] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default RUN/pictures.")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Another checkpoint.")] = None,
    slices: Annotated[int, typer.Option("--slices", min=1, help="How many slices.")] = 6,
) -> int:
    """Draw PCA colours of the patch features and the CLS token's attention."""
    from prostate_ssl.errors import ProstateError
    from prostate_ssl.evaluation.backbone import load_backbone
    from prostate_ssl.evaluation.pictures import attention_picture, pca_picture
    from prostate_ssl.evaluation.run import labelled_dataset

    with stage(run, "pictures"):
        backbone = load_backbone(run, weights)
        dataset = labelled_dataset(backbone.cfg, data, "TEST", None)
        names = dataset.case_ids
        if case and case not in names:
            raise ProstateError(f"No case {case} in {data}; there are {', '.join(names[:5])} …", 2)
        index = names.index(case) if case else 0
        folder = out or run / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for kind, draw in (("pca", pca_picture), ("attention", attention_picture)):
            path = folder / f"{kind}_{names[index]}.png"
            draw(backbone, dataset, index, path, slices)
            written.append(path)
    for path in written:
        print(path)
    return 0
