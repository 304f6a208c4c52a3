from __future__ import annotations

import pytest
import torch

from portable_kernels.errors import BadIndexError
from portable_kernels.knn import ball_query, knn_gather, knn_points

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LENGTHS = [(None, None), ([4, 0], [1, 7])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _clouds(device: str, dtype: torch.dtype = torch.float64, D: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    p1, p2 = (torch.randn(2, P, D, generator=generator, dtype=torch.float64) for P in (5, 7))
    return p1.to(device, dtype).requires_grad_(), p2.to(device, dtype).requires_grad_()


def _lengths(lengths: list[int] | None, device: str) -> torch.Tensor | None:
    return None if lengths is None else torch.tensor(lengths, device=device)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("D", [1, 3, 10])
def test_distances(norm: int, lengths, D: int, device: str) -> None:
    p1, p2 = _clouds(device, D=D)
    lengths1, lengths2 = (_lengths(each, device) for each in lengths)
    torch.autograd.gradcheck(
        lambda a, b: knn_points(a, b, lengths1, lengths2, norm, K=3).dists, (p1, p2), nondet_tol=1e-12
    )


@pytest.mark.parametrize("norm", [1, 2])
def test_more_neighbours_asked_for_than_there_are(norm: int, device: str) -> None:
    """What is padded has index 0, and must not count as that point."""
    p1, p2 = _clouds(device)
    for K in (8, 40):
        dists = knn_points(p1, p2, norm=norm, K=K).dists
        difference = p1[:, :, None] - p2[:, None]
        plain = (difference**2).sum(3) if norm == 2 else difference.abs().sum(3)
        for mine, wanted in zip(
            torch.autograd.grad(dists.sum(), (p1, p2)),
            torch.autograd.grad(plain.sum(), (p1, p2)),
            strict=True,
        ):
            torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_ball_query(lengths, device: str) -> None:
    p1, p2 = _clouds(device)
    lengths1, lengths2 = (_lengths(each, device) for each in lengths)
    torch.autograd.gradcheck(
        lambda a, b: ball_query(a, b, lengths1, lengths2, K=4, radius=1.7, return_nn=False).dists,
        (p1, p2),
        nondet_tol=1e-12,
    )


def test_neighbours(device: str) -> None:
    p1, p2 = _clouds(device)
    torch.autograd.gradcheck(
        lambda a, b: knn_points(a, b, K=3, return_nn=True).knn, (p1.detach(), p2), nondet_tol=1e-12
    )
    torch.autograd.gradcheck(
        lambda a, b: ball_query(a, b, K=3, radius=1.5).knn, (p1.detach(), p2), nondet_tol=1e-12
    )


@pytest.mark.parametrize("lengths", [None, [1, 7]])
def test_gather_is_linear_to_any_order(lengths, device: str) -> None:
    _, x = _clouds(device)
    idx = torch.randint(0, 7, (2, 4, 3), generator=torch.Generator().manual_seed(1)).to(device)
    torch.autograd.gradcheck(lambda a: knn_gather(a, idx, _lengths(lengths, device)), (x,), nondet_tol=1e-12)
    torch.autograd.gradgradcheck(
        lambda a: knn_gather(a, idx, _lengths(lengths, device)) ** 2, (x,), nondet_tol=1e-12
    )


def test_equal_coordinates_in_norm_1_give_minus_one_as_in_pytorch3d(device: str) -> None:
    p1, p2 = torch.ones(1, 1, 2, device=device, requires_grad=True), torch.ones(1, 1, 2, device=device)
    knn_points(p1, p2, norm=1).dists.sum().backward()
    assert p1.grad is not None
    assert p1.grad.tolist() == [[[-1.0, -1.0]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [1, 2])
def test_against_plain_autograd(norm: int, dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(4)
    p1, p2 = (
        torch.randn(2, P, 3, generator=generator).to(device, dtype).requires_grad_() for P in (300, 200)
    )
    weight = torch.randn(2, 300, 5, generator=generator).to(device, dtype)
    got = knn_points(p1, p2, norm=norm, K=5)
    mine = torch.autograd.grad((got.dists * weight).sum(), (p1, p2))
    difference = p1[:, :, None] - torch.stack([p2[n][got.idx[n]] for n in range(2)])
    plain = (difference**2).sum(3) if norm == 2 else difference.abs().sum(3)
    wanted = torch.autograd.grad((plain * weight).sum(), (p1, p2))
    for a, b in zip(mine, wanted, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_deterministic_mode_gives_the_same_bits() -> None:
    p1, p2 = (torch.randn(1, P, 3, device="cuda").requires_grad_() for P in (20000, 50))
    torch.use_deterministic_algorithms(True)
    try:
        runs = [
            torch.autograd.grad(knn_points(p1, p2, K=8, return_nn=True).knn.square().sum(), p2)[0]
            for _ in range(3)
        ]
        runs += [torch.autograd.grad(knn_points(p1, p2, K=8).dists.sum(), p2)[0] for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    assert torch.equal(runs[3], runs[4])
    assert torch.equal(runs[3], runs[5])


def test_distances_are_differentiated_once(device: str) -> None:
    p1, p2 = _clouds(device)
    (grad,) = torch.autograd.grad(knn_points(p1, p2, K=2).dists.sum(), p1, create_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        grad.sum().backward()


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8, torch.bool]
)
def test_gather_takes_any_dtype(dtype: torch.dtype, device: str) -> None:
    x = (torch.arange(2 * 6 * 3).view(2, 6, 3) % 7).to(device, dtype)
    idx = torch.randint(0, 6, (2, 4, 5), generator=torch.Generator().manual_seed(1)).to(device)
    got = knn_gather(x, idx, torch.tensor([6, 3], device=device))
    wanted = torch.stack([x[n][idx[n]] for n in range(2)])
    wanted[1, :, 3:] = 0
    assert torch.equal(got, wanted)
    if dtype.is_floating_point:
        grad = torch.autograd.grad(knn_gather(x.requires_grad_(), idx).sum(), x)[0]
        counts = torch.stack([torch.bincount(idx[n].flatten(), minlength=6) for n in range(2)])
        assert torch.equal(grad, counts[..., None].expand(2, 6, 3).to(dtype))


def test_gather_refuses_bad_input() -> None:
    x, idx = torch.ones(2, 6, 3), torch.zeros(2, 4, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match="x and idx must have same batch dimension"):
        knn_gather(x[:1], idx)
    with pytest.raises(ValueError, match="must have shape"):
        knn_gather(x, idx[0])
    with pytest.raises(RuntimeError, match="expected scalar type Long"):
        knn_gather(x, idx.int())
    for bad in (6, -1):
        idx[1, 2, 3] = bad
        with pytest.raises(BadIndexError, match=rf"index {bad} is outside \[0, 6\)"):
            knn_gather(x, idx)


@pytest.mark.gpu
def test_a_bad_index_on_a_gpu_is_reported_and_the_context_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTABLE_KERNELS_DEBUG", "1")
    x = torch.ones(2, 6, 3, device="cuda")
    idx = torch.zeros(2, 4, 5, dtype=torch.int64, device="cuda")
    idx[1, 2, 3] = 1 << 40
    with pytest.raises(BadIndexError, match=r"outside \[0, 6\)"):
        knn_gather(x, idx)
    assert float(x.sum()) == 36.0


def test_traces_and_schemas() -> None:
    p1, p2 = torch.randn(1, 5, 3, requires_grad=True), torch.randn(1, 6, 3, requires_grad=True)
    room = torch.ops.portable_kernels
    idx = torch.zeros(1, 4, 2, dtype=torch.int64)
    torch.library.opcheck(room.knn_points, (p1, p2, None, None, 2, 3, True))
    torch.library.opcheck(room.ball_query, (p1, p2, None, torch.tensor([4]), 3, 1.5, False))
    torch.library.opcheck(room.knn_gather, (p2, idx, None, False))
