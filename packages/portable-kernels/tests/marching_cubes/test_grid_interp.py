from __future__ import annotations

import math

import pytest
import torch

from portable_kernels.marching_cubes import grid_interp, marching_cubes

from .surfaces import grid, sphere

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _reference(volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The same by torch's own trilinear sampling, in float64, for points inside."""
    size = torch.tensor(volume.shape[:0:-1], dtype=torch.float64) - 1
    where = (points.double() / size * 2 - 1)[None, :, None, None]
    sampled = torch.nn.functional.grid_sample(volume[None].double(), where, align_corners=True)
    return sampled[0, :, :, 0, 0].t()


@pytest.mark.parametrize("channels", [1, 3, 7])
@pytest.mark.parametrize("shape", [(2, 2, 2), (5, 6, 7), (9, 4, 33)])
def test_inside_it_is_trilinear(channels: int, shape: tuple[int, int, int], device: str) -> None:
    generator = torch.Generator().manual_seed(3)
    volume = torch.randn((channels, *shape), generator=generator)
    points = torch.rand((500, 3), generator=generator) * (torch.tensor(shape[::-1]) - 1)
    got = grid_interp(volume.to(device), points.to(device))
    assert got.shape == (500, channels)
    torch.testing.assert_close(got.cpu().double(), _reference(volume, points), rtol=0, atol=1e-5)


def test_coordinates_are_in_the_order_of_the_vertices(device: str) -> None:
    z, y, x = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), torch.arange(6.0), indexing="ij")
    points = torch.tensor([[1.25, 2.5, 0.75], [0, 0, 0], [5, 4, 3]])
    assert torch.equal(grid_interp(torch.stack([x, y, z]).to(device), points.to(device)).cpu(), points)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (-3e9, 1.0),
        (-2.5, 1.0),
        (-1.0, 1.0),
        (-0.5, 0.0),
        (0.0, 1.0),
        (2.0, 5.0),
        (2.75, 5.0),
        (9.3, 5.0),
        (3e9, 5.0),
    ],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_outside_as_in_torchmcubes(position: float, expected: float, axis: int, device: str) -> None:
    shape = [1, 1, 1, 1]
    shape[3 - axis] = 3
    volume = torch.tensor([1.0, 3.0, 5.0]).view(shape)
    point = torch.zeros(1, 3)
    point[0, axis] = position
    assert grid_interp(volume.to(device), point.to(device)).item() == expected


def test_only_points_that_are_not_finite_give_nan(device: str) -> None:
    points = torch.tensor([[math.nan, 1, 1], [1, math.inf, 1], [1, 1, 1]])
    got = grid_interp(torch.ones(2, 3, 3, 3).to(device), points.to(device)).cpu()
    assert got.isnan().tolist() == [[True, True], [True, True], [False, False]]


def test_colours_of_a_mesh(device: str) -> None:
    """The use that torchmcubes shows: the volume itself, read at the vertices, is the threshold."""
    volume = sphere(24, 25, 26)
    colours = torch.stack([volume, *grid(24, 25, 26)]).to(device)
    vertices, _ = marching_cubes(volume.to(device), 0.1)
    values = grid_interp(colours, vertices).cpu()
    assert (values[:, 0] - 0.1).abs().max() < 1e-5
    size = torch.tensor([25.0, 24.0, 23.0])
    assert (values[:, 1:] - (vertices.cpu() / size * 2 - 1)).abs().max() < 1e-5


@pytest.mark.parametrize("points", [0, 1])
@pytest.mark.parametrize("channels", [0, 1])
def test_nothing_and_one(points: int, channels: int, device: str) -> None:
    out = grid_interp(torch.ones(channels, 2, 2, 2).to(device), torch.zeros(points, 3).to(device))
    assert out.shape == (points, channels)
    assert (out == 1).all()


def test_strides_do_not_matter(device: str) -> None:
    volume, points = torch.rand(3, 8, 9, 10).to(device), (torch.rand(40, 6) * 3).to(device)
    got = grid_interp(volume.permute(0, 3, 1, 2)[:, ::2], points[:, ::2])
    wanted = grid_interp(volume.permute(0, 3, 1, 2)[:, ::2].contiguous(), points[:, ::2].contiguous())
    assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("volume", "points", "words"),
    [
        (torch.ones(3, 3, 3), torch.ones(1, 3), "vol must be 4-dimension"),
        (torch.ones(1, 3, 3, 3), torch.ones(3), "points must be 2-dimension"),
        (torch.ones(1, 3, 3, 3), torch.ones(1, 2), "points must have shape"),
        (torch.ones(1, 3, 3, 3, dtype=torch.float64), torch.ones(1, 3), "expected scalar type Float"),
        (torch.ones(1, 3, 3, 3), torch.ones(1, 3, dtype=torch.float64), "expected scalar type Float"),
        (torch.ones(1, 0, 3, 3), torch.ones(1, 3), "no values"),
    ],
)
def test_wrong_arguments_are_refused(volume: torch.Tensor, points: torch.Tensor, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        grid_interp(volume, points)


def test_it_has_no_gradient_and_traces() -> None:
    volume = torch.rand(2, 3, 3, 3, requires_grad=True)
    assert not grid_interp(volume, torch.rand(4, 3)).requires_grad
    torch.library.opcheck(torch.ops.portable_kernels.grid_interp, (volume.detach(), torch.rand(4, 3)))
