from __future__ import annotations

import math

import pytest
import torch

from portable_kernels.knn import ball_query, launches

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _definition(p1, p2, lengths1, lengths2, K: int, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    N, P1, _ = p1.shape
    dists, idx = torch.zeros(N, P1, K, dtype=torch.float64), torch.full((N, P1, K), -1)
    for n in range(N):
        length1 = P1 if lengths1 is None else int(lengths1[n])
        length2 = p2.shape[1] if lengths2 is None else int(lengths2[n])
        for i in range(length1):
            squares = ((p1[n, i].double() - p2[n, :length2].double()) ** 2).sum(1)
            within = (squares < radius**2).nonzero().squeeze(1)[:K]
            dists[n, i, : len(within)], idx[n, i, : len(within)] = squares[within], within
    return dists, idx


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inside_cube", [False, True])
@pytest.mark.parametrize(
    ("D", "K", "radius"), [(3, 1, 1.0), (3, 5, 2.0), (1, 7, 0.1), (8, 500, 3.5), (11, 4, 5.0), (3, 9, 0.0)]
)
@pytest.mark.parametrize(("N", "P1", "P2"), [(1, 1, 1), (2, 40, 600), (4, 24, 16)])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_first_within_the_radius(N, P1, P2, D, K, radius, inside_cube, ragged, dtype, device) -> None:
    generator = torch.Generator().manual_seed(0)
    p1, p2 = (torch.randn(N, P, D, generator=generator, dtype=dtype) for P in (P1, P2))
    lengths1 = torch.randint(0, P1 + 1, (N,), generator=generator) if ragged else None
    lengths2 = torch.randint(0, P2 + 1, (N,), generator=generator) if ragged else None
    moved = [None if each is None else each.to(device) for each in (lengths1, lengths2)]
    got = ball_query(
        p1.to(device), p2.to(device), *moved, K=K, radius=radius, skip_points_outside_cube=inside_cube
    )
    dists, idx = _definition(p1, p2, lengths1, lengths2, K, radius)
    assert torch.equal(got.idx.cpu(), idx)
    torch.testing.assert_close(got.dists.cpu().double(), dists, rtol=1e-5, atol=1e-5)
    assert got.knn is not None
    for n in range(N):
        wanted = p2[n][idx[n].clamp(min=0)].masked_fill(idx[n, ..., None] < 0, 0)
        assert torch.equal(got.knn[n].cpu(), wanted)


def test_defaults(device: str) -> None:
    p = torch.rand(1, 30, 3, generator=torch.Generator().manual_seed(0)).to(device)
    got = ball_query(p, p)
    assert got.idx.shape == (1, 30, 500)
    _, idx = _definition(p.cpu(), p.cpu(), None, None, 500, 0.2)
    assert torch.equal(got.idx.cpu(), idx)
    assert ball_query(p, p, return_nn=False).knn is None


def test_the_radius_itself_is_outside_and_nan_is_too(device: str) -> None:
    p2 = torch.tensor([[[1.0], [math.nan], [0.5], [-0.5], [math.inf]]], device=device)
    got = ball_query(torch.zeros(1, 1, 1, device=device), p2, K=4, radius=0.5)
    assert got.idx.tolist() == [[[-1] * 4]]
    got = ball_query(torch.zeros(1, 1, 1, device=device), p2, K=4, radius=0.75)
    assert got.idx.tolist() == [[[2, 3, -1, -1]]]


@pytest.mark.parametrize(("P1", "P2", "K", "D"), [(0, 5, 2, 3), (5, 0, 2, 3), (5, 5, 0, 3), (2, 3, 2, 0)])
def test_nothing(P1: int, P2: int, K: int, D: int, device: str) -> None:
    got = ball_query(
        torch.ones(2, P1, D, device=device), torch.ones(2, P2, D, device=device), K=K, radius=0.0
    )
    assert got.idx.shape == (2, P1, K)
    assert (got.idx == -1).all()
    assert got.knn is not None
    assert got.knn.shape == (2, P1, K, D)


@pytest.mark.gpu
def test_every_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(p1: torch.Tensor, K: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (*p1.shape[:2], K)
        return p1.new_full(shape, math.nan), torch.full(shape, 1 << 40, device=p1.device)

    monkeypatch.setattr(launches, "_empty_result", poisoned)
    p1, p2 = torch.randn(3, 50, 3), torch.randn(3, 70, 3)
    lengths1, lengths2 = torch.tensor([50, 0, 33]), torch.tensor([70, 70, 2])
    got = ball_query(p1.cuda(), p2.cuda(), lengths1.cuda(), lengths2.cuda(), K=40, radius=1.0)
    dists, idx = _definition(p1, p2, lengths1, lengths2, 40, 1.0)
    assert torch.equal(got.idx.cpu(), idx)
    torch.testing.assert_close(got.dists.cpu().double(), dists, rtol=1e-5, atol=1e-5)


def test_wrong_clouds_are_refused() -> None:
    with pytest.raises(ValueError, match="same batch dimension"):
        ball_query(torch.ones(1, 2, 3), torch.ones(2, 2, 3))
    with pytest.raises(ValueError, match="same point dimension"):
        ball_query(torch.ones(1, 2, 3), torch.ones(1, 2, 2))
    with pytest.raises(RuntimeError, match='"ball_query" not implemented for'):
        ball_query(torch.ones(1, 2, 3).half(), torch.ones(1, 2, 3).half())
