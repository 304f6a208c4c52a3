"""Structural similarity: against a direct sum over windows, by differences, and on a GPU against the reference."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import portable_kernels
from portable_kernels.compiler import CodeFormat, compile_source
from portable_kernels.ssim import fused_ssim
from portable_kernels.ssim.launches import SOURCE


def _images(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    first = torch.rand(*shape, generator=g, dtype=torch.float64)
    second = (first + 0.2 * torch.randn(*shape, generator=g, dtype=torch.float64)).clamp(0, 1)
    return first.to(dtype), second.to(dtype)


def _direct(first: np.ndarray, second: np.ndarray, valid: bool) -> float:
    """Equation 13 of Wang et al., one window after the other."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for a, b in zip(first.reshape(-1, *first.shape[2:]), second.reshape(-1, *first.shape[2:]), strict=True):
        padded = [np.pad(image, 5) for image in (a, b)]
        H, W = a.shape
        for y in range(H):
            for x in range(W):
                if valid and not (5 <= y < H - 5 and 5 <= x < W - 5):
                    continue
                p, q = (image[y : y + 11, x : x + 11] for image in padded)
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * p * p).sum() - mp**2, (weights * q * q).sum() - mq**2
                cov = (weights * p * q).sum() - mp * mq
                values.append(
                    (2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
                )
    return float(np.mean(values)) if values else math.nan


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("shape", [(1, 1, 14, 15), (2, 3, 11, 12), (1, 2, 3, 30), (1, 1, 1, 1)])
def test_agrees_with_the_formula(shape: tuple[int, ...], padding: str) -> None:
    first, second = _images(*shape)
    found = fused_ssim(first, second, padding=padding).item()
    assert found == pytest.approx(
        _direct(first.numpy(), second.numpy(), padding == "valid"), abs=1e-12, nan_ok=True
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_gradient_by_differences(padding: str) -> None:
    first, second = _images(2, 2, 13, 12)
    assert torch.autograd.gradcheck(lambda x: fused_ssim(x, second, padding), first.requires_grad_())


def test_the_shim_says_what_it_leaves_to_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(portable_kernels.__file__).parent / "dropins" / "fused_ssim"))
    shim = importlib.import_module("fused_ssim")
    assert shim.fused_ssim is fused_ssim
    with pytest.raises(ImportError, match="shim of portable-kernels"):
        exec("from fused_ssim import fused_ssim3d")
    assert not hasattr(shim, "something_else")


def test_an_image_is_most_similar_to_itself() -> None:
    image = _images(1, 3, 20, 20)[0].requires_grad_()
    similarity = fused_ssim(image, image.detach())
    similarity.backward()
    assert similarity.item() == pytest.approx(1.0)
    assert image.grad.abs().max() < 1e-9


def test_only_the_first_image_has_a_gradient_and_only_in_training() -> None:
    first, second = (image.requires_grad_() for image in _images(1, 1, 12, 12))
    fused_ssim(first, second).backward()
    assert first.grad.abs().sum() > 0
    assert second.grad is None
    assert not fused_ssim(first, second, train=False).requires_grad
    with torch.no_grad():
        assert not fused_ssim(first, second).requires_grad


def test_needs_no_contiguous_images() -> None:
    first, second = _images(1, 3, 20, 24)
    turned = [image.transpose(2, 3).contiguous().transpose(2, 3) for image in (first, second)]
    assert fused_ssim(*turned).item() == fused_ssim(first, second).item()


def test_wrong_arguments() -> None:
    image = torch.rand(1, 1, 12, 12)
    with pytest.raises(AssertionError):
        fused_ssim(image, image, padding="full")
    for other, words in ((image[0], "B, C, H, W"), (image.int(), "Float")):
        with pytest.raises(RuntimeError, match=words):
            fused_ssim(other, other)
    for other, words in ((image[:, :, 1:], "img2 is"), (image.double(), "type"), (image.to("meta"), "meta")):
        with pytest.raises(RuntimeError, match=words):
            fused_ssim(image, other)


def test_is_a_dispatcher_op_of_known_shapes() -> None:
    first, second = _images(1, 1, 12, 12)
    torch.library.opcheck(
        torch.ops.portable_kernels.ssim.default,
        (first.requires_grad_(), second, False, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize("chip", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_compiles(chip: str) -> None:
    assert compile_source(SOURCE, chip, CodeFormat.CUBIN).startswith(b"\x7fELF")


@pytest.mark.gpu
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    "shape", [(1, 3, 130, 270), (2, 1, 34, 128), (1, 2, 35, 129), (3, 2, 7, 300), (1, 1, 1, 1), (0, 3, 9, 9)]
)
def test_kernels_agree_with_the_reference(shape: tuple[int, ...], padding: str) -> None:
    kept = torch.full((2**22,), torch.nan, device="cuda")  # what is handed out next holds NaN
    del kept
    first, second = _images(*shape)
    results = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        image = first.to(device, dtype, copy=True).requires_grad_()
        mean = fused_ssim(image, second.to(device, dtype), padding)
        mean.backward()
        results.append((mean.item(), image.grad.double().cpu()))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5, abs=1e-6, nan_ok=True)
    # Where two variances cancel, float32 keeps little of the constant C2.
    assert (results[1][1] - results[0][1]).norm() <= 1e-4 * results[0][1].norm()


@pytest.mark.gpu
def test_kernels_always_give_the_same_bits() -> None:
    first, second = (image.cuda() for image in _images(2, 3, 200, 300, dtype=torch.float32))
    grads = []
    for _ in range(3):
        image = first.clone().requires_grad_()
        fused_ssim(image, second).backward()
        grads.append(image.grad)
    assert all(torch.equal(grad, grads[0]) for grad in grads)
    assert len({fused_ssim(first, second).item() for _ in range(3)}) == 1


@pytest.mark.gpu
def test_more_than_2_to_the_31_elements() -> None:
    first = (
        torch.rand(1, 1, 1024, 1024, device="cuda").expand(2**11 + 4, 1, -1, -1).contiguous().requires_grad_()
    )
    second = torch.full((1, 1, 1, 1), 0.5, device="cuda").expand_as(first).contiguous()
    mean = fused_ssim(first, second)
    mean.backward()
    one = first.detach()[:1].clone().requires_grad_()
    expected = fused_ssim(one, second[:1])
    expected.backward()
    assert mean.item() == pytest.approx(expected.item(), rel=1e-4)
    assert torch.allclose(first.grad[-1] * len(first), one.grad[0], rtol=1e-4, atol=1e-9)


@pytest.mark.gpu
def test_other_types_are_refused_on_a_gpu() -> None:
    image = torch.rand(1, 1, 12, 12, device="cuda")
    with pytest.raises(RuntimeError, match="Float"):
        fused_ssim(image.half(), image.half())
