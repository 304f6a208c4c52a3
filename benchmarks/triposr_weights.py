"""TripoSR weights of the published size, made here: random, and a decoder fitted to a chair of boxes.

`python benchmarks/triposr_weights.py SOURCE OUT [--small]` writes OUT/{config.yaml,model.ckpt} and
OUT/facebook/dino-vitb16/config.json. They stand in for the published weights where no hub can be
reached: same shapes, same bytes, same work for the GPU; the mesh is a chair whatever the picture shows.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch


def configuration(width: int, heads: int, layers: int) -> dict[str, object]:
    """The network's sizes, under the keys that TripoSR reads (JSON is YAML, too)."""
    return {
        "cond_image_size": 512,
        "image_tokenizer_cls": "tsr.models.tokenizers.image.DINOSingleImageTokenizer",
        "image_tokenizer": {"pretrained_model_name_or_path": "facebook/dino-vitb16"},
        "tokenizer_cls": "tsr.models.tokenizers.triplane.Triplane1DTokenizer",
        "tokenizer": {"plane_size": 32, "num_channels": width},
        "backbone_cls": "tsr.models.transformer.transformer_1d.Transformer1D",
        "backbone": {
            "in_channels": width,
            "num_attention_heads": heads,
            "attention_head_dim": 64,
            "num_layers": layers,
            "cross_attention_dim": 768,
        },
        "post_processor_cls": "tsr.models.network_utils.TriplaneUpsampleNetwork",
        "post_processor": {"in_channels": width, "out_channels": 40},
        "decoder_cls": "tsr.models.network_utils.NeRFMLP",
        "decoder": {"in_channels": 120, "n_neurons": 64, "n_hidden_layers": 9, "activation": "silu"},
        "renderer_cls": "tsr.models.nerf_renderer.TriplaneNeRFRenderer",
        "renderer": {
            "radius": 0.87,
            "feature_reduction": "concat",
            "density_activation": "exp",
            "density_bias": -1.0,
            "num_samples_per_ray": 128,
        },
    }


VIT = {
    "architectures": ["ViTModel"],
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 768,
    "image_size": 224,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "model_type": "vit",
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "patch_size": 16,
    "qkv_bias": True,
}
POINTS = 32768 if torch.cuda.is_available() else 3000
BOXES = [((0, 0, -0.05), (0.3, 0.3, 0.04)), ((-0.27, 0, 0.3), (0.04, 0.3, 0.33))] + [
    ((x, y, -0.32), (0.045, 0.045, 0.25)) for x in (-0.24, 0.24) for y in (-0.24, 0.24)
]


def chair(points: torch.Tensor) -> torch.Tensor:
    """Signed distance (n,) of points (n, 3) to the union of the boxes; negative inside."""
    rows = []
    for centre, half in BOXES:
        q = (points - points.new_tensor(centre)).abs() - points.new_tensor(half)
        rows.append(q.clamp(min=0).norm(dim=1) + q.max(dim=1).values.clamp(max=0))
    return torch.stack(rows).min(dim=0).values


def smooth_planes(channels: int, size: int) -> torch.Tensor:
    """(3, channels, size, size): waves of low frequency, so that features tell where they are."""
    where = torch.linspace(-1, 1, size)
    x, y = torch.meshgrid(where, where, indexing="ij")
    waves = torch.randn(3, channels, 2, 1, 1) * 3
    phase = torch.rand(3, channels, 1, 1) * 2 * math.pi
    return torch.sin(waves[:, :, 0] * x + waves[:, :, 1] * y + phase)


def fit(model: torch.nn.Module, codes: torch.Tensor, steps: int) -> float:
    """Train the decoder alone; returns the last loss."""
    renderer, decoder = model.renderer, model.decoder
    optimiser = torch.optim.Adam(decoder.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    surface = 1 + math.log(25)
    for _ in range(steps):
        points = (torch.rand(POINTS, 3, device=codes.device) * 2 - 1) * 0.87
        told = renderer.query_triplane(decoder, points, codes[0])
        wanted = (surface - 40 * chair(points)).clamp(-3, surface + 3)
        colours = (points + 0.87) / 1.74
        loss = (told["density"][:, 0] - wanted).square().mean() + (told["color"] - colours).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    sys.path.insert(0, str(given.source))
    import types

    import huggingface_hub

    for name in ("torchmcubes", "rembg"):  # not needed for this
        sys.modules[name] = types.SimpleNamespace(marching_cubes=None)  # type: ignore[assignment]
    given.out.mkdir(parents=True, exist_ok=True)
    vit = given.out / "facebook" / "dino-vitb16" / "config.json"
    vit.parent.mkdir(parents=True, exist_ok=True)
    vit.write_text(json.dumps(VIT))
    huggingface_hub.hf_hub_download = lambda **_: str(vit)
    import numpy as np
    from omegaconf import OmegaConf
    from PIL import Image
    from tsr.system import TSR

    sizes = (
        {"width": 128, "heads": 2, "layers": 2} if given.small else {"width": 1024, "heads": 16, "layers": 16}
    )
    config = given.out / "config.yaml"
    config.write_text(json.dumps(configuration(**sizes)))
    cfg = OmegaConf.load(config)
    OmegaConf.resolve(cfg)
    torch.manual_seed(0)
    began = time.time()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = TSR(cfg)
    model = model.to(device)
    with torch.no_grad():
        model.tokenizer.embeddings.copy_(smooth_planes(sizes["width"], 32))
        picture = np.array(Image.open(given.source / "examples" / "chair.png").convert("RGB"))
        codes = model([picture], device=device)
        model.post_processor.upsample.weight /= codes.std()
        codes = model([picture], device=device)
    loss = fit(model, codes, given.steps)
    torch.save({name: value.cpu() for name, value in model.state_dict().items()}, given.out / "model.ckpt")
    count = sum(value.numel() for value in model.state_dict().values())
    size = (given.out / "model.ckpt").stat().st_size
    seconds = time.time() - began
    print(f"{count} numbers, {size} bytes (published: 1677246740), loss {loss:.4f}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
