"""The backbone computes the published function: compared with an independent float64 implementation."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from prostate_ssl.models import ARCHITECTURES, MedicalVisionTransformer, VitShape
from prostate_ssl.training.randomness import drop_path_scales


def _reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "reference_vit", Path(__file__).with_name("reference_vit.py")
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference_vit = _reference()


def published_state(
    dim: int, depth: int, patch: int, side: int, *, swiglu: bool, registers: int, rows: int = 4
):
    """Random weights with the keys and shapes that published checkpoints have."""
    generator = torch.Generator().manual_seed(depth * 1000 + dim)

    def random(*shape: int, scale: float = 0.1) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    state = {
        "cls_token": random(1, 1, dim, scale=1),
        "pos_embed": random(1, 1 + side**2, dim, scale=1),
        "mask_token": random(1, dim, scale=1),
        "patch_embed.proj.weight": random(dim, 3, patch, patch),
        "patch_embed.proj.bias": random(dim),
        "mri_seq_embed.weight": random(rows, dim, scale=1),
        "norm.weight": 1 + random(dim),
        "norm.bias": random(dim),
    }
    if registers:
        state["register_tokens"] = random(1, registers, dim, scale=1)
    hidden = (int(4 * dim * 2 / 3) + 7) // 8 * 8 if swiglu else 4 * dim
    for i in range(depth):
        b = f"blocks.{i}"
        for name, out, into in (("attn.qkv", 3 * dim, dim), ("attn.proj", dim, dim)):
            state |= {f"{b}.{name}.weight": random(out, into), f"{b}.{name}.bias": random(out)}
        ffn = (
            (("mlp.w12", 2 * hidden, dim), ("mlp.w3", dim, hidden))
            if swiglu
            else (("mlp.fc1", hidden, dim), ("mlp.fc2", dim, hidden))
        )
        for name, out, into in ffn:
            state |= {f"{b}.{name}.weight": random(out, into), f"{b}.{name}.bias": random(out)}
        for name in ("norm1", "norm2"):
            state |= {f"{b}.{name}.weight": 1 + random(dim), f"{b}.{name}.bias": random(dim)}
        for name in ("ls1", "ls2"):
            state[f"{b}.{name}.gamma"] = 0.5 + random(dim)
    return state


CASES = [
    # swiglu, registers, modalities, size, image-wise positions, modality embedding, masks
    (False, 0, ("ax_t2wi", "ax_adc", "ax_dwi"), (28, 28), True, True, False),
    (False, 0, ("ax_t2wi", "ax_adc", "ax_dwi"), (28, 28), True, True, True),
    (False, 0, ("ax_dwi", "seg"), (14, 42), True, True, True),
    (True, 0, ("ax_t2wi",), (42, 28), True, True, False),
    (False, 2, ("ax_t2wi", "ax_adc"), (28, 28), True, False, True),
    (False, 0, ("ax_t2wi", "ax_adc", "ax_dwi"), (28, 28), False, True, True),
    (True, 4, ("t1_dce", "ax_adc"), (28, 14), False, False, False),
]


@pytest.mark.parametrize(("swiglu", "registers", "names", "size", "image_wise", "seq_embed", "masked"), CASES)
def test_equals_the_plain_float64_implementation(
    swiglu, registers, names, size, image_wise, seq_embed, masked
):
    dim, depth, heads, patch, side = 24, 3, 3, 7, 4
    new_names = [n for n in names if n not in ("ax_t2wi", "ax_adc", "ax_dwi", "seg")]
    rows = 4 + len(new_names)
    state = published_state(dim, depth, patch, side, swiglu=swiglu, registers=registers, rows=rows)
    model = MedicalVisionTransformer(
        VitShape(dim, depth, heads),
        patch_size=patch,
        img_size=patch * side,
        mri_sequences=names,
        use_mri_seq_embed=seq_embed,
        img_wise_pos_embed=image_wise,
        ffn_layer="swiglu" if swiglu else "mlp",
        num_register_tokens=registers,
    ).eval()
    model.load_state_dict(state, strict=True)
    x = torch.randn(2, len(names), *size, generator=torch.Generator().manual_seed(5))
    patches = (size[0] // patch) * (size[1] // patch)
    masks = (
        torch.rand(2, len(names), patches, generator=torch.Generator().manual_seed(6)) < 0.4
        if masked
        else None
    )
    wanted = reference_vit.forward(
        state,
        x,
        patch=patch,
        heads=heads,
        modality_rows=model.modality_rows(len(names), None),
        masks=masks,
        seq_embed=seq_embed,
        image_wise=image_wise,
    )
    with torch.no_grad():
        got = model.forward_features(x, masks)
    tokens = torch.cat(
        [got["x_norm_clstoken"][:, None], got["x_norm_regtokens"], got["x_norm_patchtokens"]], 1
    )
    error = (tokens.double() - wanted).norm() / wanted.norm()
    assert error <= 1e-5, float(error)
    assert got["x_norm_patchtokens"].shape == (2, len(names) * patches, dim)


@pytest.mark.parametrize(
    ("arch", "millions"),
    [
        ("medical_vit_small", 22),
        ("glioma_vit_base", 86),
        ("medical_vit_large", 304),
        ("glioma_vit_giant2", 1100),
    ],
)
def test_sizes_are_the_published_ones(arch, millions):
    with torch.device("meta"):
        model = MedicalVisionTransformer(
            ARCHITECTURES[arch], ffn_layer="swiglu" if "giant" in arch else "mlp"
        )
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert abs(count - millions) / millions < 0.04, count


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    model = MedicalVisionTransformer(VitShape(32, 2, 2), patch_size=7, img_size=28, layerscale=1.0).eval()
    torch.nn.init.normal_(model.mask_token)
    return model


def test_any_number_and_order_of_modalities(tiny):
    x = torch.randn(2, 3, 28, 28)
    swapped = tiny.forward_features(x[:, [2, 0]], modalities=("ax_dwi", "ax_t2wi"))["x_norm_clstoken"]
    plain = tiny.forward_features(x[:, [0, 2]], modalities=("ax_t2wi", "ax_dwi"))["x_norm_clstoken"]
    assert torch.allclose(swapped, plain, atol=1e-5)
    assert tiny(x[:, :1]).shape == (2, 16, 32)
    with pytest.raises(ValueError, match="unknown modality pet"):
        tiny.forward_features(x[:, :1], modalities=("pet",))


def test_one_channel_more_is_the_gland_mask(tiny):
    """The published interface: (batch, modalities[+mask], H, W)."""
    x = torch.randn(2, 4, 28, 28)
    named = tiny.forward_features(x, modalities=("ax_t2wi", "ax_adc", "ax_dwi", "seg"))
    assert torch.equal(tiny(x), named["x_norm_patchtokens"]) and tiny(x).shape == (2, 64, 32)
    with pytest.raises(ValueError, match="5 input channels, but 3 modality names"):
        tiny(torch.randn(2, 5, 28, 28))


def test_an_absent_modality_is_the_same_as_one_masked_in_full(tiny):
    x = torch.randn(2, 3, 28, 28)
    present = torch.tensor([[True, False, True], [True, True, True]])
    masks = (~present)[:, :, None].expand(2, 3, 16)
    a, b = tiny.forward_features(x, present=present), tiny.forward_features(x, masks)
    assert torch.equal(a["x_norm_patchtokens"], b["x_norm_patchtokens"])
    other = x.clone()
    other[0, 1] = 17.0
    assert torch.equal(tiny.forward_features(other, present=present)["x_norm_clstoken"], a["x_norm_clstoken"])


def test_a_mask_without_modalities_holds_for_all_of_them(tiny):
    x, mask = torch.randn(2, 3, 28, 28), torch.rand(2, 16) < 0.5
    every = mask[:, None].expand(2, 3, 16)
    assert torch.equal(tiny(x, mask), tiny(x, every))
    assert torch.equal(tiny(x, every.reshape(2, 48)), tiny(x, every))


def test_activation_checkpointing_changes_no_gradient(tiny):
    x = torch.randn(2, 3, 28, 28)
    tiny(x).square().mean().backward()
    plain = [p.grad.clone() for p in tiny.parameters() if p.grad is not None]
    tiny.zero_grad()
    tiny.activation_checkpointing = True
    tiny(x).square().mean().backward()
    for a, b in zip(plain, (p.grad for p in tiny.parameters() if p.grad is not None), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_intermediate_layers_and_attention_have_the_documented_shapes(tiny):
    x = torch.randn(2, 3, 28, 14)
    layers = tiny.get_intermediate_layers(x, 2, reshape=True)
    assert [layer.shape for layer in layers] == [(2, 3, 32, 4, 2)] * 2
    last = tiny.get_intermediate_layers(x, [1])[0]
    assert torch.allclose(last, tiny(x), atol=1e-6)
    attention = tiny.last_attention(x)
    assert attention.shape == (2, 2, 3, 4, 2)
    assert (attention.sum((2, 3, 4)) < 1).all() and (attention > 0).all()


def test_stochastic_depth_drops_whole_branches_and_keeps_their_mean(tiny):
    scales = drop_path_scales([0.5, 0.5], 2, 400, slice(0, 400), (3, 7, "global"))
    assert scales.shape == (2, 2, 800)
    assert set(scales.unique().tolist()) == {0.0, 2.0}
    assert abs(scales.mean() - 1) < 0.1
    x = torch.randn(2, 3, 28, 28)
    dropped = tiny.forward_features(x, drop_scales=torch.zeros(2, 2, 2))["x_prenorm"]
    assert torch.equal(dropped, tiny.embed(x))


def test_stochastic_depth_is_the_same_on_any_number_of_ranks():
    whole = drop_path_scales([0.3] * 4, 2, 8, slice(0, 8), (0, 11, "local")).unflatten(2, (2, 8))
    half = drop_path_scales([0.3] * 4, 2, 8, slice(4, 8), (0, 11, "local")).unflatten(2, (2, 4))
    assert torch.equal(whole[..., 4:], half)
    assert not torch.equal(
        whole, drop_path_scales([0.3] * 4, 2, 8, slice(0, 8), (0, 12, "local")).unflatten(2, (2, 8))
    )


@pytest.mark.parametrize(("antialias", "offset"), [(False, 0.1), (True, 0.0), (True, 0.1), (False, 0.0)])
@pytest.mark.parametrize("grid", [(3, 5), (9, 4), (12, 12)])
def test_positions_are_interpolated_as_in_dinov2(antialias, offset, grid):
    """Both published ways: without antialiasing and with the offset, and (with registers) the other way round."""
    model = MedicalVisionTransformer(
        VitShape(6, 1, 2), patch_size=7, img_size=56,
        interpolate_antialias=antialias, interpolate_offset=offset,
    )  # fmt: skip
    square = model.pos_embed[0, 1:].detach().double().view(1, 8, 8, 6).permute(0, 3, 1, 2)
    scales = {"scale_factor": tuple((n + offset) / 8 for n in grid)} if offset else {"size": grid}
    expected = torch.nn.functional.interpolate(square, mode="bicubic", antialias=antialias, **scales)
    found = model.positions(*grid)[0, 1:].detach().double()
    assert torch.allclose(found, expected[0].flatten(1).T, atol=1e-7)


@pytest.mark.parametrize("registers", [0, 2])
def test_wanted_rows_are_the_same_as_all_tokens(registers):
    torch.manual_seed(0)
    model = MedicalVisionTransformer(
        VitShape(32, 3, 2), patch_size=7, img_size=28, layerscale=1.0, num_register_tokens=registers
    )
    x = torch.randn(4, 3, 28, 28)
    scales = drop_path_scales([0.4] * 3, 1, 4, slice(0, 4), (0, 0, "global"))
    index = torch.tensor([0, 5, 47, 48, 100, 191])
    whole = model.forward_features(x, drop_scales=scales)
    rows = model.token_rows(4, 48, index)
    some = model.forward_features(x, drop_scales=scales, rows=rows)["x_norm_rows"]
    assert torch.allclose(some[:4], whole["x_norm_clstoken"], atol=1e-5)
    assert torch.allclose(some[4:], whole["x_norm_patchtokens"].flatten(0, 1)[index], atol=1e-5)


def test_attention_does_not_depend_on_what_stands_in_place_of_an_absent_modality(tiny):
    x, present = torch.randn(1, 3, 28, 28), torch.tensor([[True, False, True]])
    other = x.clone()
    other[:, 1] = 0
    assert torch.equal(tiny.last_attention(x, present), tiny.last_attention(other, present))
    assert not torch.allclose(tiny.last_attention(other, present), tiny.last_attention(other))
