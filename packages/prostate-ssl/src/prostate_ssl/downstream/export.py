"""The backbone in formats that other programs read."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn

from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.backbone import Backbone
from prostate_ssl.evaluation.features import model_side
from prostate_ssl.files import write_json, write_tensors

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """Files that were written, and the largest relative difference of each from torch."""

    files: tuple[Path, ...]
    differences: dict[str, float]


class _Tokens(nn.Module):
    """CLS and patch tokens as a tuple, for formats without dictionaries."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.model.forward_features(x)  # type: ignore[operator]
        return tokens["x_norm_clstoken"], tokens["x_norm_patchtokens"]


def export_backbone(
    backbone: Backbone, out: Path, *, onnx: bool = False, image_size: int | None = None
) -> Exported:
    """Write `model.safetensors`, `config.json` and, on request, `model.onnx`, each compared with torch.

    The ONNX graph takes `x` (B, M, H, W) float32, any B, and gives `cls` (B, D) and `patches` (B, M·N, D).

    Args:
        backbone: what is exported.
        out: folder.
        onnx: write the ONNX graph too.
        image_size: its H = W in pixels; default the size of evaluation slices.

    Raises:
        ProstateError: ONNX packages missing; a size that is no multiple of the patch; a file that does not
            compute what torch computes.
    """
    model = backbone.model.cpu().eval()
    side = image_size or model_side(model)
    if side % model.patch_size:
        raise ProstateError(
            f"--image-size {side} is no multiple of the patch size {model.patch_size}: use "
            f"{max(1, round(side / model.patch_size)) * model.patch_size}.",
            2,
        )
    out.mkdir(parents=True, exist_ok=True)
    # Beside the final place and under the final names, which the ONNX file of a large model repeats inside.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as folder:
        names, differences = _write_compared(backbone, Path(folder), side, onnx=onnx)
        for name in names:
            (Path(folder) / name).replace(out / name)
    return Exported(tuple(out / name for name in names), differences)


def _write_compared(
    backbone: Backbone, out: Path, side: int, *, onnx: bool
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Write the files into an empty folder; their names, and how far each is from torch.

    Raises:
        ProstateError: a file that does not compute what torch computes.
    """
    model = backbone.model
    example = torch.randn(2, len(model.mri_sequences), side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = _Tokens(model)(example)
    weights = out / "model.safetensors"
    write_tensors(weights, {n: t.contiguous() for n, t in model.state_dict().items()})
    write_json(
        out / "config.json",
        {
            "schema": "prostate-ssl/backbone/1",
            "mri_sequences": list(model.mri_sequences),
            "image_size": side,
            "normalisation": {"mean": 0.45, "std": 0.22},
            "config": OmegaConf.to_container(backbone.cfg),
        },
    )
    again = type(backbone)(model, backbone.cfg, weights, torch.device("cpu"))
    again.model.load_state_dict(load_file(weights))
    with torch.no_grad():
        differences = {"safetensors": _difference(_Tokens(again.model)(example), wanted)}
    if onnx:
        differences["onnx"] = _export_onnx(_Tokens(model).eval(), example, wanted, out / "model.onnx")
    wrong = {name: d for name, d in differences.items() if not d <= TOLERANCE}
    if wrong:
        name, difference = next(iter(wrong.items()))
        raise ProstateError(
            f"The exported {name} file differs from torch by {difference:.1e}; it is not usable."
        )
    # The description last, and the weights of an ONNX file that keeps them apart before it.
    return tuple(sorted((path.name for path in out.iterdir()), reverse=True)), differences


def _difference(got: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> float:
    return max(float((g - w).norm() / w.norm()) for g, w in zip(got, wanted, strict=True))


def _export_onnx(
    model: nn.Module, example: torch.Tensor, wanted: tuple[torch.Tensor, ...], path: Path
) -> float:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ProstateError(f"ONNX export needs {error.name}: pip install 'prostate-ssl[onnx]'.") from error
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        model,
        (example,),
        input_names=["x"],
        output_names=["cls", "patches"],
        dynamic_shapes={"x": {0: batch}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(path))
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    one = session.run(None, {"x": example[:1].numpy()})
    two = session.run(None, {"x": example.numpy()})
    first = tuple(w[:1] for w in wanted)
    return max(
        _difference(tuple(map(torch.from_numpy, two)), wanted),
        _difference(tuple(map(torch.from_numpy, one)), first),
    )


def read_export(folder: Path) -> dict[str, object]:
    """The description beside an exported model."""
    document: dict[str, object] = json.loads((folder / "config.json").read_text())
    return document
