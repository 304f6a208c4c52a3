"""Gradients: by differences in float64, and where they must vanish."""

from __future__ import annotations

import pytest
import torch

from .scenes import Scene, random_scene, settings


@pytest.mark.parametrize("antialiasing", [False, True])
@pytest.mark.parametrize("shape", ["scales", "cov"])
@pytest.mark.parametrize("colours", ["shs", "precomputed"])
def test_by_differences(colours: str, shape: str, antialiasing: bool) -> None:
    scene = random_scene(7, 11, colours, shape, scale=0.3).to("cpu", torch.float64)
    means2D = scene.arguments.pop("means2D").detach()  # its values are not used: see below
    names = list(scene.arguments)

    def render(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        arguments = dict(zip(names, tensors, strict=True))
        color, _, inverse_depth = Scene({**arguments, "means2D": means2D}).render(
            settings(12, 18, antialiasing=antialiasing)
        )
        return color, inverse_depth

    assert torch.autograd.gradcheck(render, tuple(scene.arguments.values()), atol=1e-5, fast_mode=True)


def test_means2D_receives_the_gradient_by_the_centre_on_the_screen() -> None:
    scene = random_scene(5, 2).to("cpu", torch.float64)
    view = settings(20, 30)
    weights = torch.rand(3, 20, 30, dtype=torch.float64)
    (scene.render(view)[0] * weights).sum().backward()
    found = scene.arguments["means2D"].grad.sum(dim=0)
    step = 1e-6
    for axis in (0, 1):
        values = []
        for sign in (1, -1):
            projection = view.projmatrix.clone()
            projection[:, axis] += sign * step * projection[:, 3]  # every centre moves by `step` of the NDC
            color = scene.render(view._replace(projmatrix=projection))[0]
            values.append((color * weights).sum().item())
        assert found[axis].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)
    assert found[2] == 0


def test_the_values_of_means2D_do_not_matter() -> None:
    scene = random_scene(5, 2)
    moved = Scene({**scene.arguments, "means2D": torch.rand(5, 3, dtype=torch.float64)})
    assert torch.equal(scene.render(settings())[0], moved.render(settings())[0])


def test_a_colour_held_at_zero_has_no_gradient() -> None:
    scene = random_scene(1, 0, scale=1.0)
    scene.arguments["means3D"][:] = 0.0
    scene.arguments["shs"][0, 0] = torch.tensor([-9.0, 1.0, 1.0])
    scene = scene.to("cpu", torch.float64)
    scene.render(settings())[0].sum().backward()
    grad = scene.arguments["shs"].grad[0]
    assert (grad[:, 0] == 0).all()
    assert (grad[0, 1:] > 0).all()


def test_what_no_light_reaches_has_no_gradient() -> None:
    scene = random_scene(4, 0, "precomputed", scale=1.0)
    scene.arguments["means3D"][:] = torch.tensor([[0.0, 0, 0], [0, 0, 0.01], [0, 0, 0.02], [0, 0, 0.03]])
    scene.arguments["scales"][:] = 50.0
    scene.arguments["opacities"][:] = 0.99
    scene = scene.to("cpu", torch.float64)
    scene.render(settings())[0].sum().backward()
    grad = scene.arguments["colors_precomp"].grad
    assert (grad[0] > 0).all()
    assert (grad[3] == 0).all()


def test_an_opacity_that_is_capped_can_still_be_lowered() -> None:
    scene = random_scene(1, 0, "precomputed", scale=1.0)
    scene.arguments["means3D"][:] = 0.0
    scene.arguments["scales"][:] = 50.0
    scene.arguments["opacities"][:] = 1.0
    scene = scene.to("cpu", torch.float64)
    black = settings(bg=torch.zeros(3, dtype=torch.float64))
    scene.render(black)[0].sum().backward()
    assert scene.arguments["opacities"].grad.item() > 0


def test_only_the_inverse_depth_can_be_differentiated() -> None:
    scene = random_scene(6, 1).to("cpu", torch.float64)
    scene.render(settings())[2].sum().backward()
    assert scene.arguments["means3D"].grad.abs().max() > 0
    assert (scene.arguments["shs"].grad == 0).all()


def test_only_what_asks_receives_a_gradient() -> None:
    scene = random_scene(6, 1)
    scene.arguments["opacities"].requires_grad_()
    color, radii, _ = scene.render(settings())
    assert not radii.requires_grad
    color.sum().backward()
    assert scene.arguments["opacities"].grad is not None
    assert scene.arguments["means3D"].grad is None


def test_is_a_dispatcher_op_of_known_shapes() -> None:
    scene, view = random_scene(4, 1).to("cpu", torch.float64), settings(18, 20)
    a, empty = scene.arguments, torch.empty(0, dtype=torch.float64)
    tensors = (
        a["means3D"],
        a["means2D"],
        a["opacities"],
        a["shs"],
        empty,
        a["scales"],
        a["rotations"],
        empty,
    )
    arguments = (*tensors, view.bg, view.viewmatrix, view.projmatrix, view.campos, view.tanfovx, view.tanfovy)
    arguments = (*arguments, 18, 20, 3, 1.0, True)
    torch.library.opcheck(
        torch.ops.portable_kernels.rasterize.default,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
