"""What neighbours are, against a definition in float64. Every test runs on the CPU and, marked `gpu`, by the kernels."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from portable_kernels.errors import BadIndexError
from portable_kernels.knn import KNN, knn_gather, knn_points, launches

#: The kernels have two searches; both are tried whatever the size.
PLACES = [
    pytest.param(("cpu", False), id="cpu"),
    pytest.param(("cuda", False), id="cuda-direct", marks=pytest.mark.gpu),
    pytest.param(("cuda", True), id="cuda-tree", marks=pytest.mark.gpu),
]
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


@pytest.fixture(params=PLACES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    place, tree = request.param
    monkeypatch.setattr(
        launches,
        "tree_pays",
        lambda p1, p2: tree and p1.shape[2] <= launches.TREE_DIMENSIONS and p2.shape[1] > 0,
    )
    return str(place)


def _points(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _definition(p1, p2, lengths1, lengths2, norm: int, K: int) -> tuple[torch.Tensor, torch.Tensor]:
    """By (distance, index), in float64, padded with 0."""
    N, P1, _ = p1.shape
    dists, idx = torch.zeros(N, P1, K, dtype=torch.float64), torch.zeros(N, P1, K, dtype=torch.int64)
    for n in range(N):
        length1 = P1 if lengths1 is None else int(lengths1[n])
        length2 = p2.shape[1] if lengths2 is None else int(lengths2[n])
        difference = p1[n, :length1, None].double() - p2[n, None, :length2].double()
        all_dists = (difference**2).sum(2) if norm == 2 else difference.abs().sum(2)
        order = all_dists.sort(dim=1, stable=True)
        found = min(K, length2)
        dists[n, :length1, :found] = order.values[:, :found]
        idx[n, :length1, :found] = order.indices[:, :found]
    return dists, idx


def _check(got: KNN, expected: tuple[torch.Tensor, torch.Tensor], dtype: torch.dtype, device: str) -> None:
    assert got.dists.dtype == dtype
    assert got.idx.dtype == torch.int64
    assert got.dists.device.type == got.idx.device.type == device
    torch.testing.assert_close(got.dists.cpu().double(), expected[0], **TOLERANCE[dtype])
    assert torch.equal(got.idx.cpu(), expected[1])


SIZES = [(1, 1, 1), (1, 8, 8), (4, 24, 16), (2, 33, 700), (1, 5, 3000), (3, 1100, 37)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize(
    ("D", "K"), [(3, 1), (3, 3), (1, 2), (2, 4), (5, 10), (8, 32), (3, 33), (9, 3), (40, 5)]
)
@pytest.mark.parametrize(("N", "P1", "P2"), SIZES)
def test_neighbours(N: int, P1: int, P2: int, D: int, K: int, norm: int, dtype, device) -> None:
    # In steps of 1/64 every distance is exact, so that ties are ties in either precision.
    p1, p2 = ((_points(N, P, D, seed=P) * 64).round().to(dtype) / 64 for P in (P1, P2))
    got = knn_points(p1.to(device), p2.to(device), norm=norm, K=K)
    assert got.knn is None
    _check(got, _definition(p1, p2, None, None, norm, K), dtype, device)


@pytest.mark.parametrize("K", [1, 3, 40])
@pytest.mark.parametrize("norm", [1, 2])
def test_lengths_pad_with_zeros(norm: int, K: int, device: str) -> None:
    p1, p2 = _points(4, 50, 3), _points(4, 60, 3, seed=1)
    p1[0, 20:], p2[1, 2:] = math.nan, math.nan  # what lies beyond a length is never looked at
    lengths1, lengths2 = torch.tensor([20, 50, 0, 7]), torch.tensor([60, 2, 30, 0])
    got = knn_points(p1.to(device), p2.to(device), lengths1.to(device), lengths2.to(device), norm, K)
    _check(got, _definition(p1, p2, lengths1, lengths2, norm, K), torch.float32, device)


@pytest.mark.parametrize("K", [1, 4, 37])
def test_unsorted_is_in_the_order_of_indices_on_cuda_and_sorted_on_the_cpu(K: int, device: str) -> None:
    p1, p2 = _points(2, 40, 3).to(device), _points(2, 90, 3, seed=1).to(device)
    lengths2 = torch.tensor([90, 3], device=device)
    wanted = knn_points(p1, p2, lengths2=lengths2, K=K)
    got = knn_points(p1, p2, lengths2=lengths2, K=K, return_sorted=False)
    if device == "cpu":
        assert torch.equal(got.idx, wanted.idx)
        return
    for n, found in enumerate([K, min(K, 3)]):
        order = wanted.idx[n, :, :found].sort(dim=1)
        assert torch.equal(got.idx[n, :, :found], order.values)
        assert torch.equal(got.dists[n, :, :found], wanted.dists[n, :, :found].gather(1, order.indices))
        assert (got.idx[n, :, found:] == 0).all()
        assert (got.dists[n, :, found:] == 0).all()


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("K", [1, 7, 34])
def test_of_equal_distances_the_smaller_index(norm: int, K: int, device: str) -> None:
    grid = torch.randint(0, 3, (2, 1500, 3), generator=torch.Generator().manual_seed(5)).float()
    for p2 in (grid, torch.zeros(2, 1100, 3)):
        got = knn_points(grid[:, :70].to(device), p2.to(device), norm=norm, K=K)
        _check(got, _definition(grid[:, :70], p2, None, None, norm, K), torch.float32, device)


def test_a_cloud_and_itself(device: str) -> None:
    sphere = torch.nn.functional.normalize(_points(1, 2000, 3), dim=2) * 100
    _check(
        knn_points(sphere.to(device), sphere.to(device), K=3),
        _definition(sphere, sphere, None, None, 2, 3),
        torch.float32,
        device,
    )
    both = sphere.to(device)
    got = knn_points(both, both, K=1)
    assert torch.equal(got.idx.cpu(), torch.arange(2000)[None, :, None])
    assert (got.dists == 0).all()


@pytest.mark.parametrize("K", [1, 3, 40])
def test_nan_is_the_farthest_and_infinite_distances_count(K: int, device: str) -> None:
    p2 = _points(1, 200, 3)
    p2[0, ::3] = math.nan
    p2[0, 1::7, 1] = math.inf
    p1 = torch.cat([_points(1, 10, 3, seed=2), p2[:, :6]], dim=1)
    got = knn_points(p1.to(device), p2.to(device), K=K)
    squares = ((p1[:, :, None] - p2[:, None]) ** 2).sum(3)
    order = squares.nan_to_num(math.inf, math.inf).sort(dim=2, stable=True).indices[..., :K]
    assert torch.equal(got.idx.cpu(), order)
    torch.testing.assert_close(got.dists.cpu(), squares.gather(2, order), equal_nan=True)


@pytest.mark.parametrize("case", ["outlier", "overflow", "line", "clusters"])
def test_awkward_clouds(case: str, device: str) -> None:
    p2 = _points(1, 1300, 3)
    if case == "outlier":
        p2 *= 1e-3
        p2[0, 7] = 1e6
    elif case == "overflow":
        p2 *= 1e19
    elif case == "line":
        p2[..., 1:] = 0
    else:
        p2 = p2 * 1e-4 + torch.randint(0, 4, (1, 1300, 1), generator=torch.Generator().manual_seed(1)) * 1e3
    p1 = p2[:, ::9] + 0
    got = knn_points(p1.to(device), p2.to(device), K=4)
    squares = torch.zeros(1, p1.shape[1], 1300)
    for c in range(3):
        squares += (p1[:, :, None, c] - p2[:, None, :, c]) ** 2
    wanted = squares.sort(dim=2, stable=True)
    torch.testing.assert_close(got.dists.cpu(), wanted.values[..., :4], rtol=1e-5, atol=0)
    if case in ("outlier", "line"):
        assert (
            got.idx.cpu() == wanted.indices[..., :4]
        ).float().mean() > 0.99  # fused multiply-adds break some ties


@pytest.mark.parametrize(
    ("shape1", "shape2", "K"),
    [
        ((0, 5, 3), (0, 6, 3), 2),
        ((2, 0, 3), (2, 6, 3), 2),
        ((2, 5, 3), (2, 0, 3), 2),
        ((2, 5, 3), (2, 6, 3), 0),
        ((2, 5, 0), (2, 6, 0), 2),
    ],
)
def test_nothing(shape1, shape2, K: int, device: str) -> None:
    got = knn_points(
        torch.ones(shape1, device=device), torch.ones(shape2, device=device), K=K, return_nn=True
    )
    assert got.dists.shape == got.idx.shape == (*shape1[:2], K)
    assert got.knn is not None
    assert got.knn.shape == (*shape1[:2], K, shape1[2])
    assert (got.dists == 0).all()
    assert (got.idx >= 0).all()


def test_strides_do_not_matter(device: str) -> None:
    p1, p2 = (
        _points(3, 50, 2).to(device).transpose(1, 2),
        _points(3, 80, 4, seed=1).to(device).transpose(1, 2),
    )
    p1, p2 = p1[:, :, ::2].transpose(1, 2), p2[:, ::2, ::2].transpose(1, 2)
    got, wanted = knn_points(p1, p2, K=3), knn_points(p1.contiguous(), p2.contiguous(), K=3)
    assert torch.equal(got.idx, wanted.idx)
    assert torch.equal(got.dists, wanted.dists)


def test_neighbours_themselves(device: str) -> None:
    p1, p2 = _points(2, 9, 3).to(device), _points(2, 20, 3, seed=1).to(device)
    lengths2 = torch.tensor([20, 2], device=device)
    got = knn_points(p1, p2, lengths2=lengths2, K=4, return_nn=True)
    assert got.knn is not None
    assert torch.equal(got.knn, knn_gather(p2, got.idx, lengths2))
    for n, p, k in itertools.product(range(2), range(9), range(4)):
        expected = p2[n, got.idx[n, p, k]] if k < lengths2[n] else torch.zeros(3, device=device)
        assert torch.equal(got.knn[n, p, k], expected)


@pytest.mark.parametrize("version", [-1, 0, 1, 2, 3, 9])
def test_every_version_is_accepted(version: int, device: str) -> None:
    p1, p2 = _points(1, 9, 3).to(device), _points(1, 20, 3, seed=1).to(device)
    assert torch.equal(knn_points(p1, p2, K=2, version=version).idx, knn_points(p1, p2, K=2).idx)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"norm": 3}, ValueError, "Support for 1 or 2 norm."),
        ({"norm": 0}, ValueError, "Support for 1 or 2 norm."),
        ({"p2": torch.ones(3, 4, 3)}, ValueError, "same batch dimension"),
        ({"p2": torch.ones(2, 4, 2)}, ValueError, "same point dimension"),
        ({"p1": torch.ones(4, 3)}, ValueError, "pts1 must have shape"),
        ({"p2": torch.ones(2, 4, 3, dtype=torch.float64)}, RuntimeError, "same type"),
        (
            {"p1": torch.ones(2, 4, 3).half(), "p2": torch.ones(2, 4, 3).half()},
            RuntimeError,
            "not implemented for",
        ),
        (
            {"p1": torch.ones(2, 4, 3).int(), "p2": torch.ones(2, 4, 3).int()},
            RuntimeError,
            "not implemented for",
        ),
        ({"K": -1}, RuntimeError, "must not be negative"),
        ({"lengths1": torch.ones(2).int()}, RuntimeError, "expected scalar type Long"),
        ({"lengths2": torch.ones(3).long()}, ValueError, "lengths2 must have shape"),
        ({"lengths2": torch.tensor([5, 1])}, BadIndexError, r"length 5 .* outside \[0, 4\]"),
        ({"lengths1": torch.tensor([-1, 1])}, BadIndexError, r"length -1 .* outside \[0, 4\]"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        knn_points(**{"p1": torch.ones(2, 4, 3), "p2": torch.ones(2, 4, 3), **arguments})


@pytest.mark.gpu
def test_a_length_out_of_bounds_is_reported_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTABLE_KERNELS_DEBUG", "1")
    p = torch.ones(2, 40, 3, device="cuda")
    for lengths in (torch.tensor([41, 3]), torch.tensor([2, -5])):
        with pytest.raises(BadIndexError, match=r"length (41|-5) of cloud [01] is outside \[0, 40\]"):
            knn_points(p, p, lengths2=lengths.cuda(), K=2)
    knn_points(p, p, K=2)


@pytest.mark.gpu
@pytest.mark.parametrize("tree", [False, True])
def test_every_output_is_written(tree: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(p1: torch.Tensor, K: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (*p1.shape[:2], K)
        return p1.new_full(shape, math.nan), torch.full(shape, 1 << 40, device=p1.device)

    monkeypatch.setattr(launches, "_empty_result", poisoned)
    monkeypatch.setattr(launches, "tree_pays", lambda p1, p2: tree)
    p1, p2 = _points(3, 70, 3), _points(3, 45, 3, seed=1)
    lengths1, lengths2 = torch.tensor([70, 0, 33]), torch.tensor([45, 45, 2])
    for K in (1, 5, 40):
        got = knn_points(p1.cuda(), p2.cuda(), lengths1.cuda(), lengths2.cuda(), K=K)
        _check(got, _definition(p1, p2, lengths1, lengths2, 2, K), torch.float32, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("K", [1, 3, 32, 50])
def test_tree_and_direct_agree_to_the_bit(norm: int, K: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p1 = torch.randn(2, 5000, 3, device="cuda")
    p2 = torch.nn.functional.normalize(torch.randn(2, 7000, 3, device="cuda"), dim=2)
    results = []
    for tree in (True, False):
        monkeypatch.setattr(launches, "tree_pays", lambda a, b, tree=tree: tree)
        results.append(knn_points(p1, p2, norm=norm, K=K))
    assert torch.equal(results[0].idx, results[1].idx)
    assert torch.equal(results[0].dists, results[1].dists)


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements() -> None:
    p2 = torch.zeros(1, 2**28 + 5, 8, device="cuda")  # 8.6 GB
    assert p2.numel() > 2**31
    p2[0, -3:] = 1.0
    got = knn_points(torch.full((1, 2, 8), 0.9, device="cuda"), p2, K=3)
    assert got.idx[0].tolist() == [[2**28 + 2, 2**28 + 3, 2**28 + 4]] * 2
    assert torch.allclose(got.dists, torch.full_like(got.dists, 0.08), rtol=1e-4)


@pytest.mark.gpu
def test_gathering_more_than_two_to_the_31_elements() -> None:
    x = torch.arange(1000, device="cuda").remainder(251).to(torch.uint8)[None, :, None].expand(1, 1000, 128)
    idx = torch.arange(2**24 + 4, device="cuda").remainder(1000).view(1, -1, 4)
    got = knn_gather(x.contiguous(), idx)
    assert got.numel() > 2**31
    assert torch.equal(got[..., 0], got[..., 127])
    assert torch.equal(got[..., 5].long(), idx.remainder(251))


@pytest.mark.gpu
def test_more_than_two_to_the_31_distances() -> None:
    p1 = torch.rand(1, 2**28 + 1, 1, device="cuda")
    p2 = torch.linspace(0, 1, 8, device="cuda").view(1, 8, 1)
    got = knn_points(p1, p2, K=8)
    assert got.dists.numel() > 2**31
    for query in (0, 2**28 - 1, 2**28):
        expected = (p1[0, query] - p2[0]).square().sum(1).sort()
        assert torch.equal(got.idx[0, query], expected.indices)
        torch.testing.assert_close(got.dists[0, query], expected.values)
