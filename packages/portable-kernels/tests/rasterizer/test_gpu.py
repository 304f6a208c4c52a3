"""The kernels against the reference in float64, on an NVIDIA GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from portable_kernels.rasterizer import launches

from .scenes import Scene, random_scene, settings

pytestmark = pytest.mark.gpu

CASES = [
    # count, colours, shape, coefficients, degree, antialiasing, scale, opacity
    (1, "shs", "scales", 16, 3, False, 0.15, 0.9),
    (12, "shs", "scales", 16, 3, True, 0.15, 0.9),
    (300, "shs", "cov", 9, 2, False, 0.15, 0.9),
    (300, "shs", "scales", 16, 1, True, 0.15, 0.9),
    (300, "shs", "scales", 25, 3, False, 0.15, 0.9),
    (40, "shs", "scales", 4, 0, False, 0.8, 1.0),
    (2000, "precomputed", "scales", 0, 3, True, 0.05, 0.9),
    (2000, "precomputed", "cov", 0, 0, None, 0.05, 0.9),
    (5000, "shs", "scales", 16, 3, False, 0.05, 0.9),
]


def _poison() -> None:
    """Leave NaN in the memory that torch hands out next."""
    kept = [torch.full((size,), torch.nan, device="cuda") for size in (2**24, 2**20, 2**16, 2**12, 2**8)]
    torch.cuda.synchronize()
    del kept


def _run(
    scene: Scene,
    device: str,
    dtype: torch.dtype,
    degree: int,
    antialiasing: bool | None,
    size: tuple[int, int],
):
    """Results and gradients, in float64 on the CPU."""
    moved = scene.to(device, dtype)
    results = moved.render(settings(*size, degree, dtype, device, antialiasing=antialiasing))
    generator = torch.Generator().manual_seed(9)
    loss = torch.zeros((), device=device, dtype=dtype)
    for image in (results[0], *results[2:]):
        weights = torch.rand(image.shape, generator=generator, dtype=torch.float64)
        loss = loss + (image * weights.to(device, dtype)).sum()
    loss.backward()
    grads = {name: t.grad.double().cpu() for name, t in moved.arguments.items()}
    return [r.detach().double().cpu() for r in results], grads


@pytest.mark.parametrize("size", [(37, 45), (256, 200)])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_agrees_with_the_reference(case, size: tuple[int, int], deterministic: bool) -> None:
    count, colours, shape, coefficients, degree, antialiasing, scale, opacity = case
    scene = random_scene(count, 7, colours, shape, coefficients, scale, opacity)
    expected, expected_grads = _run(scene, "cpu", torch.float64, degree, antialiasing, size)
    _poison()
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        found, grads = _run(scene, "cuda", torch.float32, degree, antialiasing, size)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(found[1], expected[1])  # radii
    for image, right in zip((found[0], *found[2:]), (expected[0], *expected[2:]), strict=True):
        difference = (image - right).abs()
        # At a pixel where alpha is 1/255 but for rounding, a splat is drawn or not.
        assert difference.max() < 5e-3
        assert difference.mean() < 2e-6
    for name, right in expected_grads.items():
        assert (grads[name] - right).norm() <= 2e-4 * right.norm() + 1e-7, name


def test_is_deterministic_when_asked() -> None:
    scene = random_scene(5000, 6, scale=0.05)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        runs = [_run(scene, "cuda", torch.float32, 3, False, (256, 200)) for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    for images, grads in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(images, runs[0][0], strict=True))
        assert all(torch.equal(grads[name], runs[0][1][name]) for name in grads)


def test_images_do_not_depend_on_what_was_drawn_before() -> None:
    """The room for (tile, Gaussian) pairs is guessed from the last image: too little must be noticed."""
    small, large = random_scene(5, 1, scale=0.02), random_scene(5000, 1, scale=0.1)
    view = settings(256, 256, 3, torch.float32, "cuda")
    launches._pairs_of_last_image.clear()
    first = [s.to("cuda", torch.float32).render(view)[0] for s in (large, small, large, large)]
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[0], first[3])


DEGENERATE = {
    "means3D": [[0.0, 0, -9], [0.3, -0.2, -3.4], [60, 0, 0], [float("nan"), 0, 0], [0, 0, float("inf")]],
    "scales": [[0.1, float("nan"), 0.1], [float("inf")] * 3, [0.0] * 3, [1e4] * 3],
    "rotations": [[float("nan"), 0, 0, 0], [0.0] * 4],
    "opacities": [[float("nan")], [0.0], [0.003], [-1.0], [2.0]],
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_gaussians_as_the_reference(name: str) -> None:
    for value in DEGENERATE[name]:
        scene = random_scene(9, 4)
        scene.arguments["means3D"][8] = 0.0
        scene.arguments[name][8] = torch.tensor(value, dtype=torch.float64)
        expected, expected_grads = _run(scene, "cpu", torch.float64, 3, False, (37, 45))
        found, grads = _run(scene, "cuda", torch.float32, 3, False, (37, 45))
        assert torch.equal(found[1] > 0, expected[1] > 0), value
        assert (found[0] - expected[0]).abs().max() < 5e-3, value
        for key in grads:
            assert torch.isfinite(grads[key]).all() == torch.isfinite(expected_grads[key]).all(), (value, key)


def test_empty_scenes_and_views() -> None:
    view = settings(20, 20, 3, torch.float32, "cuda")
    background = view.bg[:, None, None].expand(3, 20, 20)
    launches._pairs_of_last_image.clear()
    for scene in (random_scene(50), random_scene(0), random_scene(50)):
        scene.arguments["means3D"] = scene.arguments["means3D"] - 50
        moved = scene.to("cuda", torch.float32)
        color, radii, _ = moved.render(view)
        assert torch.equal(color, background)
        assert not radii.any()
        color.sum().backward()
        assert all((t.grad == 0).all() for t in moved.arguments.values())


def test_a_colour_that_is_not_a_number_shows_where_the_reference_shows_it() -> None:
    scene = random_scene(40, 4, "precomputed", scale=0.1)
    scene.arguments["colors_precomp"][3, 1] = torch.nan
    expected = scene.render(settings(48, 48))[0]
    found = scene.to("cuda", torch.float32).render(settings(48, 48, 3, torch.float32, "cuda"))[0].cpu()
    assert (torch.isnan(found) != torch.isnan(expected)).sum() <= 2


def test_float64_is_refused_before_any_kernel() -> None:
    with pytest.raises(RuntimeError, match="expected scalar type Float"):
        random_scene(3).to("cuda", torch.float64).render(settings(device="cuda"))


def test_tensors_of_another_device_are_refused() -> None:
    with pytest.raises(RuntimeError, match="bg is on cpu"):
        random_scene(3).to("cuda", torch.float32).render(settings(dtype=torch.float32))


def test_runs_on_another_stream() -> None:
    scene = random_scene(500).to("cuda", torch.float32)
    view = settings(64, 64, 3, torch.float32, "cuda")
    expected = scene.render(view)[0]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = scene.render(view)[0]
    stream.synchronize()
    assert torch.equal(found, expected)


def test_a_million_gaussians_on_a_large_image() -> None:
    scene = random_scene(1_000_000, 3, "precomputed", scale=0.02, opacity=0.3).to("cuda", torch.float32)
    color, radii, _ = scene.render(settings(2000, 3000, 0, torch.float32, "cuda"))
    color.square().mean().backward()
    assert torch.isfinite(color).all()
    assert (radii > 0).sum() > 500_000
    assert all(torch.isfinite(t.grad).all() for t in scene.arguments.values())


def test_more_than_2_to_the_31_elements() -> None:
    """45 million Gaussians have 2.16 billion coefficients; all but the last ten are behind the camera."""
    count = 45_000_000
    scene = random_scene(10, 3)
    few = scene.to("cuda", torch.float32)
    many = {}
    for name, t in few.arguments.items():
        many[name] = torch.zeros(count, *t.shape[1:], device="cuda")
        if name == "means3D":
            many[name][:, 2] = -50.0
        many[name][-10:] = t.detach()
        many[name].requires_grad_()
    view = settings(64, 64, 3, torch.float32, "cuda")
    color, radii, _ = Scene(many).render(view)
    expected, expected_radii, _ = few.render(view)
    assert torch.equal(color, expected)
    assert torch.equal(radii[-10:], expected_radii)
    (color**2).sum().backward()
    (expected**2).sum().backward()
    for name, t in few.arguments.items():
        assert torch.allclose(many[name].grad[-10:], t.grad, rtol=1e-4, atol=1e-5), name
        assert not many[name].grad[:-10].any(), name


def test_by_forced_ptx_without_a_compiler_on_path(tmp_path) -> None:
    """A process of its own, with nothing on PATH: kernels go through the driver's compiler."""
    code = (
        "import torch, portable_kernels.rasterizer as r, portable_kernels.ssim as s, portable_kernels.nearest as n;"
        "x = torch.rand(1, 3, 40, 40, device='cuda', requires_grad=True); s.fused_ssim(x, x.detach() * 0.5).backward();"
        "assert x.grad.abs().sum() > 0; assert (n.distCUDA2(torch.rand(99, 3, device='cuda')) > 0).all();"
        "v = torch.eye(4, device='cuda'); v[3, 2] = 3.; p = torch.zeros(4, 4, device='cuda'); p[0, 0] = p[1, 1] = p[2, 2] = p[2, 3] = 1.;"
        "t = r.GaussianRasterizationSettings(32, 32, 1., 1., torch.zeros(3, device='cuda'), 1., v, v @ p, 0, torch.zeros(3, device='cuda'), False, False);"
        "m = torch.zeros(1, 3, device='cuda', requires_grad=True); o = torch.full((1, 1), 0.5, device='cuda');"
        "c = r.GaussianRasterizer(t)(m, torch.zeros_like(m), o, colors_precomp=torch.ones_like(m), cov3D_precomp=torch.tensor([[.1, 0, 0, .1, 0, .1]], device='cuda'))[0];"
        "c[:, :16].sum().backward(); assert m.grad[0, 1] < 0; print(c.max().item())"
    )
    environment = {
        **os.environ,
        "PATH": "",
        "PORTABLE_KERNELS_FORCE_PTX": "1",
        "PORTABLE_KERNELS_CACHE": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 0.4 < float(done.stdout) < 0.51
    assert list(tmp_path.glob("compute_*/*.ptx"))
