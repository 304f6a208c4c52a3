"""Mean squared distances to three nearest neighbours: against sorting all pairs, on the CPU and on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from portable_kernels.compiler import CodeFormat, compile_source
from portable_kernels.nearest import distCUDA2
from portable_kernels.nearest.launches import SOURCE

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def _direct(points: np.ndarray) -> np.ndarray:
    means = []
    for i, point in enumerate(points):
        others = np.delete(points, i, axis=0)
        nearest = np.sort(((others - point) ** 2).sum(axis=1))[:3]
        means.append(nearest.mean() if len(nearest) else 0.0)
    return np.array(means)


def _cloud(kind: str, count: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(count)
    uniform = torch.rand(count, 3, generator=g)
    if kind == "line":
        return uniform[:, :1] * torch.tensor([1.0, 2.0, 3.0])
    if kind == "grid":
        return (uniform * 4).round()  # many in the same place
    if kind == "one place":
        return torch.full((count, 3), 0.3)
    if kind == "clusters":
        far = torch.randint(0, 3, (count, 1), generator=g)
        return uniform * 1e-3 + far * 1e3
    if kind == "outlier":
        return torch.cat([uniform[1:] * 1e-2, torch.full((1, 3), 1e6)])
    if kind == "negative":
        return uniform * 10 - 100
    return uniform


KINDS = ["uniform", "line", "grid", "one place", "clusters", "outlier", "negative"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 31, 32, 33, 500, 1100])
def test_agrees_with_sorting_all_pairs(count: int, kind: str, device: str) -> None:
    points = _cloud(kind, count)
    found = distCUDA2(points.to(device))
    assert found.dtype == torch.float32
    assert found.device.type == device
    np.testing.assert_allclose(found.cpu().numpy(), _direct(points.double().numpy()), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_no_points(device: str) -> None:
    assert distCUDA2(torch.zeros(0, 3, device=device)).shape == (0,)


@pytest.mark.parametrize("device", DEVICES)
def test_a_point_that_is_not_finite_is_nobodys_neighbour(device: str) -> None:
    points = _cloud("uniform", 200)
    broken = points.clone()
    broken[7, 1], broken[100, 0], broken[199] = torch.nan, torch.inf, -torch.inf
    found = distCUDA2(broken.to(device)).cpu()
    finite = torch.isfinite(broken).all(dim=1)
    assert torch.equal(torch.isnan(found), ~finite)
    np.testing.assert_allclose(found[finite].numpy(), _direct(points[finite].double().numpy()), rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_the_order_of_the_points_does_not_matter(device: str) -> None:
    points = _cloud("uniform", 3000).to(device)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(1)).to(device)
    assert torch.equal(distCUDA2(points)[order], distCUDA2(points[order]))


@limits(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-1e3, 1e3, width=32)] * 3), min_size=1, max_size=40),
)
def test_any_points(points: list[tuple[float, float, float]]) -> None:
    tensor = torch.tensor(points, dtype=torch.float64)
    np.testing.assert_allclose(distCUDA2(tensor).numpy(), _direct(tensor.numpy()), rtol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_needs_no_contiguous_points(device: str) -> None:
    points = _cloud("uniform", 50).to(device)
    strided = torch.cat([points, points], dim=1)[:, :3]
    assert torch.equal(distCUDA2(strided), distCUDA2(points))
    assert not distCUDA2(points.requires_grad_()).requires_grad


@pytest.mark.parametrize(
    "points",
    [torch.zeros(4, 2), torch.zeros(3), torch.zeros(4, 3, dtype=torch.int32), torch.zeros(4, 3).half()],
)
def test_wrong_points(points: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"num_points, 3|scalar type Float"):
        distCUDA2(points)


@pytest.mark.parametrize("chip", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_compiles(chip: str) -> None:
    assert compile_source(SOURCE, chip, CodeFormat.CUBIN).startswith(b"\x7fELF")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_many_points_as_the_reference(kind: str) -> None:
    points = _cloud(kind, 40_000)
    kept = torch.full((2**22,), torch.nan, device="cuda")  # what is handed out next holds NaN
    del kept
    found = distCUDA2(points.cuda())
    squared = (
        torch.cdist(
            points.cuda().double(), points.cuda().double(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        ** 2
    )
    squared.fill_diagonal_(torch.inf)
    expected = squared.topk(3, largest=False).values.mean(dim=1)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-12)


@pytest.mark.gpu
def test_more_than_2_to_the_31_elements() -> None:
    count = 2**31 // 3 + 5
    points = torch.rand(count, 3, device="cuda")
    found = distCUDA2(points)
    for i in (0, count // 2, count - 1):
        squared = ((points - points[i]) ** 2).sum(dim=1)
        assert found[i].item() == pytest.approx(
            squared.topk(4, largest=False).values[1:].mean().item(), rel=1e-5
        )
