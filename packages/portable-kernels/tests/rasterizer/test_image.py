"""What is drawn: against an independent loop over pixels, and by properties."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from portable_kernels.rasterizer import GaussianRasterizer

from . import oracle
from .scenes import Scene, random_scene, settings

CASES = [
    # colours, shape, coefficients, degree, antialiasing, opacity, scale
    ("shs", "scales", 16, 3, False, 0.9, 0.15),
    ("shs", "cov", 16, 2, True, 0.9, 0.15),
    ("shs", "scales", 4, 1, True, 0.9, 0.02),
    ("shs", "scales", 1, 0, False, 1.0, 0.4),
    ("precomputed", "cov", 0, 3, False, 0.9, 0.15),
    ("precomputed", "scales", 0, 0, True, 1.0, 0.8),
]


@pytest.mark.parametrize(
    ("colours", "shape", "coefficients", "degree", "antialiasing", "opacity", "scale"), CASES
)
def test_agrees_with_the_formulas(colours, shape, coefficients, degree, antialiasing, opacity, scale) -> None:
    scene = random_scene(25, 3, colours, shape, coefficients, scale, opacity)
    view = settings(21, 35, degree, antialiasing=antialiasing, scale_modifier=1.0)
    color, radii, inverse_depth = scene.render(view)
    expected, expected_radii, expected_depth = oracle.render(scene.arguments, view)
    np.testing.assert_allclose(color.numpy(), expected, atol=1e-10)
    np.testing.assert_array_equal(radii.numpy(), expected_radii)
    np.testing.assert_allclose(inverse_depth[0].numpy(), expected_depth, atol=1e-10)
    assert radii.dtype == torch.int32
    assert inverse_depth.shape == (1, 21, 35)


def test_many_opaque_gaussians_stop_the_light() -> None:
    scene = random_scene(60, 5, "precomputed", scale=0.9, opacity=1.0)
    scene.arguments["opacities"].fill_(0.95)
    view = settings(20, 20)
    np.testing.assert_allclose(
        scene.render(view)[0].numpy(), oracle.render(scene.arguments, view)[0], atol=1e-10
    )


def test_no_gaussian_gives_the_background() -> None:
    scene = random_scene(0).to("cpu", torch.float32)
    view = settings(5, 7, dtype=torch.float32)
    color, radii, inverse_depth = scene.render(view)
    assert torch.equal(color, view.bg[:, None, None].expand(3, 5, 7))
    assert radii.shape == (0,)
    assert inverse_depth.abs().max() == 0
    color.sum().backward()
    assert scene.arguments["means3D"].grad.shape == (0, 3)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 1), (1, 33)])
def test_images_of_odd_sizes(size: tuple[int, int]) -> None:
    scene = random_scene(10, 2)
    view = settings(*size)
    np.testing.assert_allclose(
        scene.render(view)[0].numpy(), oracle.render(scene.arguments, view)[0], atol=1e-10
    )


def test_equal_depths_are_drawn_in_the_given_order() -> None:
    scene = random_scene(2, 1, "precomputed", scale=1.0)
    for name in ("means3D", "scales", "rotations"):
        scene.arguments[name][1] = scene.arguments[name][0]
    scene.arguments["opacities"][:] = 0.9
    scene.arguments["colors_precomp"][:] = torch.eye(3)[:2]
    color = scene.render(settings(bg=torch.zeros(3, dtype=torch.float64)))[0]
    assert color[0].max() > 3 * color[1].max()


def test_scales_by_the_modifier() -> None:
    scene = random_scene(20)
    bigger = Scene({**scene.arguments, "scales": scene.arguments["scales"] * 1.7})
    assert torch.equal(scene.render(settings(scale_modifier=1.7))[0], bigger.render(settings())[0])


def test_harmonics_above_the_degree_are_ignored() -> None:
    scene = random_scene(20)
    cut = Scene({**scene.arguments, "shs": scene.arguments["shs"][:, :4]})
    assert torch.allclose(scene.render(settings(degree=1))[0], cut.render(settings(degree=1))[0])


def test_needs_no_contiguous_tensors() -> None:
    scene = random_scene(20)
    strided = Scene({name: torch.cat([t, t])[::2][: len(t)] for name, t in scene.arguments.items()})
    strided.arguments = {
        name: torch.stack([t, torch.full_like(t, torch.nan)], dim=-1)[..., 0]
        for name, t in scene.arguments.items()
    }
    view = settings()
    turned = view._replace(
        viewmatrix=view.viewmatrix.T.contiguous().T, projmatrix=view.projmatrix.T.contiguous().T
    )
    assert torch.equal(strided.render(turned)[0], scene.render(view)[0])


DEGENERATE = {
    "behind the camera": ("means3D", [0.0, 0.0, -9.0]),
    "nearer than the near plane": ("means3D", [0.3, -0.2, -3.4]),
    "beside the image": ("means3D", [60.0, 0.0, 0.0]),
    "mean not a number": ("means3D", [float("nan"), 0.0, 0.0]),
    "infinitely far": ("means3D", [0.0, 0.0, float("inf")]),
    "scale not a number": ("scales", [0.1, float("nan"), 0.1]),
    "infinite scale": ("scales", [0.1, float("inf"), 0.1]),
    "rotation not a number": ("rotations", [float("nan"), 0.0, 0.0, 0.0]),
    "opacity not a number": ("opacities", [float("nan")]),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_is_not_drawn_and_has_no_gradient(name: str) -> None:
    argument, value = DEGENERATE[name]
    others, scene = random_scene(8, 4), random_scene(9, 4)
    for key, t in others.arguments.items():
        scene.arguments[key][:8] = t
    scene.arguments[argument][8] = torch.tensor(value, dtype=torch.float64)
    if argument != "means3D":
        scene.arguments["means3D"][8] = 0.0
    scene = scene.to("cpu", torch.float64)
    color, radii, _ = scene.render(settings())
    assert radii[8] == 0
    assert torch.equal(color, others.render(settings())[0])
    color.square().sum().backward()
    for t in scene.arguments.values():
        assert torch.isfinite(t.grad).all()
        assert (t.grad[8] == 0).all()


@pytest.mark.parametrize(
    ("argument", "value"),
    [("scales", [0.0, 0.0, 0.0]), ("rotations", [0.0] * 4), ("opacities", [0.0]), ("opacities", [0.003])],
)
def test_counts_as_visible_and_stays_finite(argument: str, value: list[float]) -> None:
    scene = random_scene(9, 4)
    scene.arguments["means3D"][8] = 0.0
    scene.arguments[argument][8] = torch.tensor(value, dtype=torch.float64)
    scene = scene.to("cpu", torch.float64)
    color, radii, _ = scene.render(settings())
    assert radii[8] > 0
    color.square().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in scene.arguments.values())


def test_a_colour_that_is_not_a_number_shows_where_it_is_drawn_alone() -> None:
    scene = random_scene(6, 4, "precomputed", scale=0.1)
    scene.arguments["means3D"][:] = torch.tensor([0.0, 0.0, 0.0])
    scene.arguments["colors_precomp"][3, 1] = torch.nan
    color = scene.render(settings(48, 48))[0]
    assert torch.isnan(color[1]).any()
    assert not torch.isnan(color[1]).all()
    assert torch.isfinite(color[0]).all()


def test_settings_of_2023_give_two_results() -> None:
    scene, view = random_scene(5), settings()
    fields = {name: value for name, value in view._asdict().items() if name != "antialiasing"}
    assert len(scene.render(type(view)(**fields))) == 2
    assert len(GaussianRasterizer(SimpleNamespace(**fields))(**scene.arguments)) == 2  # type: ignore[arg-type]
    assert len(scene.render(type(view)(*fields.values()))) == 2
    assert torch.equal(scene.render(type(view)(**fields))[0], scene.render(view)[0])


def test_marks_what_lies_in_front() -> None:
    view = settings()
    positions = torch.tensor(
        [[0.0, 0, 0], [0, 0, -9], [0.3, -0.2, -3.31], [0.3, -0.2, -3.29], [torch.nan, 0, 0]]
    )
    seen = GaussianRasterizer(view).markVisible(positions.double())
    assert seen.dtype == torch.bool
    assert seen.tolist() == [True, False, False, True, False]
