"""`prostate-ssl export`: the backbone as safetensors and ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Option("--run", help="Folder of the training.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx too.")] = False,
    image_size: Annotated[
        int,
        typer.Option("--image-size", min=0, help="Pixels a side of the ONNX graph's input; 0: the run's."),
    ] = 0,
    weights: Annotated[Path | None, typer.Option("--weights", help="Another checkpoint.")] = None,
) -> int:
    """Write weights and configuration, compared with torch before they count as written."""
    import torch

    from prostate_ssl.downstream.export import export_backbone
    from prostate_ssl.evaluation.backbone import load_backbone

    backbone = load_backbone(run, weights, device=torch.device("cpu"))
    done = export_backbone(backbone, out, onnx=onnx, image_size=image_size or None)
    for path in done.files:
        print(path)
    for name, difference in done.differences.items():
        print(f"{name}: relative difference from torch {difference:.1e}")
    return 0
