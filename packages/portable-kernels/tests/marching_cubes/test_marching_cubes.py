"""The mesh: what it is, whatever made it. Every test runs on the CPU and, marked `gpu`, by the kernels."""

from __future__ import annotations

import math

import mcubes
import pytest
import torch

from portable_kernels.marching_cubes import marching_cubes

from .surfaces import euler_characteristic, hausdorff, noise, open_edges, signed_volume, sphere, torus

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SHAPES = [(2, 2, 2), (2, 3, 2), (3, 5, 33), (7, 6, 32), (5, 4, 31), (9, 33, 65), (20, 21, 97), (33, 2, 2)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _mesh(volume: torch.Tensor, threshold: float, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    vertices, faces = marching_cubes(volume.to(device), threshold)
    assert vertices.device.type == faces.device.type == device
    assert (vertices.dtype, faces.dtype) == (torch.float32, torch.int32)
    assert vertices.shape[1:] == faces.shape[1:] == (3,)
    return vertices.cpu(), faces.cpu()


@pytest.mark.parametrize(("volume", "expected"), [(sphere, 2), (torus, 0)], ids=["sphere", "torus"])
@pytest.mark.parametrize("shape", [(24, 24, 24), (20, 37, 66)])
def test_closed_surfaces_have_their_euler_characteristic(volume, expected, shape, device) -> None:
    vertices, faces = _mesh(volume(*shape), 0.0, device)
    assert len(open_edges(faces)) == 0
    assert euler_characteristic(vertices, faces) == expected


def test_normals_point_to_greater_values_and_the_volume_is_right(device: str) -> None:
    n, radius = 64, 0.7
    vertices, faces = _mesh(sphere(n, n, n, radius=radius), 0.0, device)
    truth = 4 / 3 * math.pi * (radius * (n - 1) / 2) ** 3
    assert signed_volume(vertices, faces) == pytest.approx(-truth, rel=5e-3)
    centre = (n - 1) / 2
    distance = (vertices - centre).norm(dim=1)
    assert (distance - radius * centre).abs().max() < 0.02
    vertices, faces = _mesh(-sphere(n, n, n, radius=radius), 0.0, device)
    assert signed_volume(vertices, faces) == pytest.approx(truth, rel=5e-3)


def test_coordinates_are_x_y_z_in_steps_of_the_grid(device: str) -> None:
    volume = torch.zeros(5, 6, 7)
    volume[2, 3, 4] = 1.0  # z, y, x
    vertices, faces = _mesh(volume, 0.25, device)
    expected = {(4, 2.25, 2), (4, 3.75, 2), (3.25, 3, 2), (4.75, 3, 2), (4, 3, 1.25), (4, 3, 2.75)}
    assert {tuple(v) for v in vertices.tolist()} == expected
    assert len(faces) == 8


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_noise_is_closed_inside_and_open_on_the_border_alone(shape, seed, device) -> None:
    volume = noise(*shape, seed=seed)
    vertices, faces = _mesh(volume, 0.1, device)
    assert sorted(faces.unique().tolist()) == list(range(len(vertices)))  # none left over, none outside
    limits = torch.tensor(shape[::-1]) - 1
    ends = vertices[open_edges(faces)]
    on_border = (ends == 0) | (ends == limits)
    assert on_border.all(1).any(1).all()  # both ends of an open edge lie on the same side of the box
    assert len(vertices.unique(dim=0)) == len(vertices)


@pytest.mark.parametrize("shape", [(3, 3, 3), (9, 12, 34), (24, 20, 40)])
def test_noise_inside_a_border_is_a_manifold(shape, device) -> None:
    vertices, faces = _mesh(noise(*shape, closed=True), 0.0, device)
    assert len(open_edges(faces)) == 0
    assert signed_volume(vertices, faces) < 0


@pytest.mark.parametrize("volume", [sphere(40, 41, 42), torus(40, 41, 42), noise(12, 13, 14)])
@pytest.mark.parametrize("threshold", [0.0, 0.11])
def test_vertices_are_those_of_another_implementation(volume, threshold, device) -> None:
    vertices, faces = _mesh(volume, threshold, device)
    other, triangles = mcubes.marching_cubes(volume.double().numpy(), float(torch.tensor(threshold)))
    other = torch.from_numpy(other).float().flip(1)  # its coordinates follow the array's dimensions
    assert len(vertices) == len(other.unique(dim=0))
    assert hausdorff(vertices, other) < 1e-4
    if threshold and volume.shape[0] == 40:  # smooth: no ambiguous face, so the same number of triangles
        assert len(faces) == len(triangles)


@pytest.mark.parametrize("value", [-1.0, 0.5, 1.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(
    "shape", [(4, 4, 4), (1, 5, 5), (5, 1, 5), (5, 5, 1), (0, 3, 3), (3, 0, 3), (1, 1, 1)]
)
def test_nothing_to_cross_gives_an_empty_mesh(value: float, shape: tuple[int, int, int], device: str) -> None:
    vertices, faces = _mesh(torch.full(shape, value), 0.5, device)
    assert vertices.shape == (0, 3)
    assert faces.shape == (0, 3)


def test_compat_restores_the_triangle_of_zeros(device: str) -> None:
    empty = torch.zeros(4, 4, 4, device=device)
    vertices, faces = marching_cubes(empty, 0.5, compat=True)
    assert vertices.tolist() == [[0.0] * 3] * 3
    assert faces.tolist() == [[0, 1, 2]]
    assert faces.dtype == torch.int32
    ball = sphere(8, 8, 8).to(device)
    assert torch.equal(marching_cubes(ball, 0.0, compat=True)[0], marching_cubes(ball, 0.0)[0])


def test_a_corner_at_the_threshold_is_above(device: str) -> None:
    volume = torch.zeros(3, 3, 3)
    volume[1, 1, 1] = 1.0
    assert len(_mesh(volume, 0.0, device)[1]) == 0
    vertices, faces = _mesh(volume, 1.0, device)
    assert vertices.tolist() == [[1.0, 1.0, 1.0]] * 6
    assert len(open_edges(faces)) == 0


def test_the_threshold_is_a_float32(device: str) -> None:
    volume = torch.full((2, 2, 2), 0.1)
    volume[0, 0, 0] = 0.0
    assert len(_mesh(volume, 0.1, device)[0]) == 3  # float32(0.1) < 0.1 as a double, but they are equal here


def test_a_nan_makes_a_hole_and_no_nan(device: str) -> None:
    volume = sphere(16, 16, 40)
    volume[8, 8, 31:] = math.nan
    volume[4, 5, 6] = math.nan
    whole, all_faces = _mesh(sphere(16, 16, 40), 0.0, device)
    vertices, faces = _mesh(volume, 0.0, device)
    assert vertices.isfinite().all()
    assert 0 < len(faces) < len(all_faces)
    assert {tuple(v) for v in vertices.tolist()} < {tuple(v) for v in whole.tolist()}
    assert int(faces.max()) < len(vertices)


def test_infinite_values(device: str) -> None:
    volume = torch.full((3, 3, 3), -math.inf)
    volume[1, 1, 1] = math.inf
    volume[1, 1, 2] = 0.0
    vertices, faces = _mesh(volume, 1.0, device)
    assert sorted(vertices.tolist()) == sorted(
        [[1.0, 0.5, 1.0], [1.0, 1.5, 1.0], [0.5, 1.0, 1.0], [2.0, 1.0, 1.0], [1.0, 1.0, 0.5], [1.0, 1.0, 1.5]]
    )
    assert len(open_edges(faces)) == 0


def test_huge_values_do_not_overflow(device: str) -> None:
    volume = torch.full((2, 2, 2), -3e38)
    volume[0, 0, 0] = 3e38
    assert sorted(_mesh(volume, 0.0, device)[0].tolist()) == [[0, 0, 0.5], [0, 0.5, 0], [0.5, 0, 0]]


def test_strides_do_not_matter(device: str) -> None:
    volume = noise(9, 10, 44).to(device)
    for view in (
        volume.permute(2, 0, 1),
        volume[::2, :, ::3],
        volume.flip(1),
        volume.expand(9, 10, 44)[1:, 2:, 3:],
    ):
        expected = marching_cubes(view.clone(memory_format=torch.contiguous_format), 0.0)
        for got, wanted in zip(marching_cubes(view, 0.0), expected, strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [*SHAPES, (70, 129, 257)])
def test_kernels_and_reference_make_the_same_bits(shape: tuple[int, int, int]) -> None:
    volume = noise(*shape)
    volume.view(-1)[::97] = math.nan
    volume.view(-1)[5::101] = math.inf
    for threshold in (0.0, -0.7):
        here, there = marching_cubes(volume, threshold), marching_cubes(volume.cuda(), threshold)
        assert torch.equal(here[0], there[0].cpu())
        assert torch.equal(here[1], there[1].cpu())


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements() -> None:
    volume = torch.full((1100, 1400, 1400), -1.0, device="cuda")
    assert volume.numel() > 2**31
    ball = sphere(60, 60, 60).cuda()
    volume[1030:1090, 1300:1360, 1310:1370] = ball
    vertices, faces = marching_cubes(volume, 0.0)
    expected, _ = marching_cubes(ball, 0.0)
    moved = expected + torch.tensor([1310.0, 1300.0, 1030.0], device="cuda")
    assert len(vertices) == len(expected)
    assert (vertices.sort(0).values - moved.sort(0).values).abs().max() < 2e-4
    assert len(open_edges(faces.cpu())) == 0


@pytest.mark.parametrize(
    ("volume", "error", "words"),
    [
        (torch.zeros(3, 3), RuntimeError, "vol must be 3-dimension"),
        (torch.zeros(1, 3, 3, 3), RuntimeError, "vol must be 3-dimension"),
        (torch.zeros(3, 3, 3, dtype=torch.float64), RuntimeError, "expected scalar type Float"),
        (torch.zeros(3, 3, 3, dtype=torch.float16), RuntimeError, "expected scalar type Float"),
        (torch.zeros(3, 3, 3, dtype=torch.int32), RuntimeError, "expected scalar type Float"),
        (torch.zeros(3, 3, 3).numpy(), TypeError, "must be a torch.Tensor"),
    ],
)
def test_wrong_volumes_are_refused(volume: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        marching_cubes(volume, 0.0)  # type: ignore[arg-type]


def test_it_has_no_gradient_and_traces() -> None:
    volume = sphere(8, 8, 8).requires_grad_()
    assert not marching_cubes(volume, 0.0)[0].requires_grad
    torch.library.opcheck(torch.ops.portable_kernels.marching_cubes, (sphere(8, 8, 8), 0.0))
