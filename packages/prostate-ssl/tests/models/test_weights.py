"""Published checkpoints load in every layout, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prostate_ssl.errors import ProstateError
from prostate_ssl.models import MedicalVisionTransformer, VitShape, load_pretrained_weights


def model(side: int = 4, names: tuple[str, ...] = ("ax_t2wi",), seed: int = 0, depth: int = 2):
    torch.manual_seed(seed)
    return MedicalVisionTransformer(
        VitShape(24, depth, 2), patch_size=7, img_size=7 * side, mri_sequences=names
    )


def dinov2_state() -> dict[str, torch.Tensor]:
    """The layout of `dinov2_vitb14_pretrain.pth`: our names without modalities."""
    return {n: t.clone() for n, t in model(seed=5).state_dict().items() if n != "mri_seq_embed.weight"}


def hugging_face_state() -> dict[str, torch.Tensor]:
    state, renamed = dinov2_state(), {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            stem, kind = name.split(".attn.qkv.")
            stem = stem.replace("blocks.", "encoder.layer.")
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{stem}.attention.attention.{part}.{kind}"] = piece.clone()
            continue
        for ours, theirs in (
            ("blocks.", "encoder.layer."),
            (".attn.proj.", ".attention.output.dense."),
            (".ls1.gamma", ".layer_scale1.lambda1"),
            (".ls2.gamma", ".layer_scale2.lambda1"),
            ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
        ):
            name = name.replace(ours, theirs)
        name = {
            "cls_token": "embeddings.cls_token",
            "mask_token": "embeddings.mask_token",
            "pos_embed": "embeddings.position_embeddings",
            "norm.weight": "layernorm.weight",
            "norm.bias": "layernorm.bias",
        }.get(name, name)
        renamed[name] = tensor
    return renamed


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


LAYOUTS = {
    "dinov2": lambda: dinov2_state(),
    "teacher": lambda: {"teacher": dinov2_state()},
    "prefixed": lambda: {"teacher": {f"backbone.{n}": t for n, t in dinov2_state().items()}},
    "training": lambda: {
        "model": {f"teacher.backbone.{n}": t for n, t in dinov2_state().items()}
        | {f"student.backbone.{n}": t + 1 for n, t in dinov2_state().items()},
        "iteration": 3,
    },
    "hugging face": hugging_face_state,
    "hugging face, prefixed": lambda: {f"dinov2.{n}": t for n, t in hugging_face_state().items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_completely(layout, tmp_path):
    target = model()
    report = load_pretrained_weights(target, saved(LAYOUTS[layout](), tmp_path / "w.pth"))
    assert not report.missing and not report.unused and not report.resized
    for name, tensor in dinov2_state().items():
        assert torch.equal(target.state_dict()[name], tensor), name
    assert f"{len(dinov2_state())} keys matched" in str(report)


def test_other_image_sizes_and_more_modalities_are_adapted(tmp_path):
    source = dict(model(seed=5).state_dict())
    target = model(side=6, names=("ax_t2wi", "new_map"))
    report = load_pretrained_weights(target, saved(source, tmp_path / "w.pth"))
    assert set(report.resized) == {"pos_embed", "mri_seq_embed.weight"}
    assert torch.equal(target.mri_seq_embed.weight[:4], source["mri_seq_embed.weight"])


def test_what_does_not_fit_is_refused(tmp_path):
    for content in (model(depth=3).state_dict(), {"conv1.weight": torch.zeros(3)}):
        with pytest.raises(ProstateError, match="another architecture"):
            load_pretrained_weights(model(), saved(content, tmp_path / "w.pth"))
    wide = MedicalVisionTransformer(VitShape(48, 2, 2), patch_size=7, img_size=28).state_dict()
    with pytest.raises(ProstateError, match="another architecture"):
        load_pretrained_weights(model(), saved(wide, tmp_path / "w.pth"))
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint")
    with pytest.raises(ProstateError, match="cannot be read"):
        load_pretrained_weights(model(), tmp_path / "broken.pth")
    with pytest.raises(ProstateError, match="No checkpoint"):
        load_pretrained_weights(model(), tmp_path / "absent.pth")


@pytest.mark.parametrize(
    "option", [{"ffn_layer": "swiglu"}, {"layerscale": 0.0}, {"qkv_bias": False}, {"ffn_bias": False}]
)
def test_a_half_that_fits_is_refused_both_ways(option, tmp_path):
    """Loaded in part it would be another function: the other half stays random."""
    other = MedicalVisionTransformer(VitShape(24, 2, 2), patch_size=7, img_size=28, **option)
    plain = MedicalVisionTransformer(VitShape(24, 2, 2), patch_size=7, img_size=28)
    for source, target in ((other, plain), (plain, other)):
        before = {n: t.clone() for n, t in target.state_dict().items()}
        with pytest.raises(ProstateError, match=r"another architecture \(blocks\.0\."):
            load_pretrained_weights(target, saved(source.state_dict(), tmp_path / "w.pth"))
        assert all(torch.equal(t, before[n]) for n, t in target.state_dict().items())


def test_register_tokens_may_be_missing_or_unused(tmp_path):
    with_registers = MedicalVisionTransformer(
        VitShape(24, 2, 2), patch_size=7, img_size=28, num_register_tokens=4
    )
    report = load_pretrained_weights(with_registers, saved(dinov2_state(), tmp_path / "w.pth"))
    assert report.missing == ("register_tokens",)
    report = load_pretrained_weights(model(), saved(with_registers.state_dict(), tmp_path / "w.pth"))
    assert report.unused == ("register_tokens",)
