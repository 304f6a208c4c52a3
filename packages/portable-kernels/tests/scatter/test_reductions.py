"""Shapes × dtypes × reductions × tolerances against the oracle, on the CPU and, where there is one, on a GPU."""

from __future__ import annotations

import pytest
import torch

from portable_kernels import scatter as ps
from portable_kernels.index_errors import check_indices

from . import oracle

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TOLERANCE = {
    torch.float64: (1e-13, 1e-13),
    torch.float32: (1e-5, 1e-5),
    torch.float16: (1e-3, 1e-3),
    torch.bfloat16: (1e-2, 1e-2),
}
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)
DTYPES = (*TOLERANCE, *INTEGERS)
# shape of src, shape of the index before broadcasting, dim, size along dim
CASES = {
    "vector": ((40,), (40,), 0, 7),
    "one": ((1,), (1,), -1, 1),
    "rows": ((30, 5), (30,), 0, 6),
    "rows of 16": ((30, 16), (30,), 0, 6),
    "wide rows": ((9, 200), (9,), 0, 4),
    "last": ((3, 30), (30,), -1, 6),
    "full": ((3, 12, 4), (3, 12, 4), 1, 5),
    "per batch": ((3, 12, 4), (3, 12), 1, 5),
    "middle": ((2, 12, 3, 2), (12,), 1, 5),
    "mixed": ((3, 2, 8, 4), (3, 1, 8, 4), 2, 5),
    "one target": ((33, 3), (33,), 0, 1),
    "more targets than elements": ((3, 2), (3,), 0, 50),
    "one index for all": ((6, 3), (1, 3), 0, 4),
}


def _numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype in INTEGERS:
        return torch.randint(-5, 6, shape, generator=generator).to(dtype)
    return (torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def _case(name: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, int, int, torch.Tensor]:
    shape, index_shape, dim, size = CASES[name]
    index = torch.randint(0, size, index_shape, generator=torch.Generator().manual_seed(1))
    src = _numbers(shape, dtype)
    full = index.reshape((1,) * (dim % len(shape)) + (-1,)) if index.dim() == 1 else index
    full = full.reshape(*full.shape, *(1,) * (src.dim() - full.dim())).expand(shape)
    return src, index, dim, size, full


def _close(ours: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert ours.dtype == dtype
    if dtype in INTEGERS:
        assert torch.equal(ours.cpu(), expected.to(dtype))
        return
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(ours.cpu().double(), expected, rtol=rtol, atol=atol * 4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_scatter_is_its_definition(name: str, dtype: torch.dtype, device: str) -> None:
    src, index, dim, size, full = _case(name, dtype)
    for reduction in ("sum", "mean", "mul", "min", "max"):
        if reduction == "mul" and dtype in (*INTEGERS, torch.float16, torch.bfloat16):
            src = src.sign() + (src == 0)  # products of many small integers overflow
        expected, positions = oracle.scatter(src, full, dim % src.dim(), size, reduction)
        ours = getattr(ps, f"scatter_{reduction}")(src.to(device), index.to(device), dim, None, size)
        if isinstance(ours, tuple):
            assert torch.equal(ours[1].cpu(), positions)
            ours = ours[0]
        _close(ours, expected, dtype)
        assert ours.is_contiguous()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(12,), (12, 1), (12, 5), (12, 64), (3, 12), (3, 12, 6)], ids=str)
def test_segments_are_their_definition(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    src = _numbers(shape, dtype)
    dim = 0 if shape[0] == 12 else 1
    indptr = [0, 2, 2, 3, 9, 12]
    index = oracle.index_of_pointers(indptr)
    full = index.reshape((1,) * dim + (-1,) + (1,) * (src.dim() - dim - 1)).expand(shape)
    leading = (1,) * dim
    for reduction in ("sum", "mean", "min", "max"):
        expected, positions = oracle.scatter(src, full, dim, 5, reduction, rounding="trunc")
        csr = getattr(ps, f"segment_{reduction}_csr")(
            src.to(device), torch.tensor(indptr, device=device).view(*leading, -1)
        )
        coo = getattr(ps, f"segment_{reduction}_coo")(src.to(device), index.to(device).view(*leading, -1))
        for ours in (csr, coo):
            if isinstance(ours, tuple):
                assert torch.equal(ours[1].cpu(), positions)
                ours = ours[0]
            _close(ours, expected, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inner", [(), (1,), (3,), (32,)], ids=str)
def test_gathers_spread_segments_out_again(inner: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    src = _numbers((2, 5, *inner), dtype).to(device)
    indptr = torch.tensor([[0, 2, 2, 3, 9, 12], [0, 0, 1, 1, 12, 12]], device=device)
    index = torch.stack([oracle.index_of_pointers(row.tolist()) for row in indptr]).to(device)
    expected = torch.stack([src[0][index[0]], src[1][index[1]]])
    assert torch.equal(ps.gather_csr(src, indptr), expected)
    assert torch.equal(ps.gather_coo(src, index), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_infinities(device: str) -> None:
    nan, inf = float("nan"), float("inf")
    lowest = torch.finfo(torch.float32).min
    src = torch.tensor([nan, 1.0, nan, -inf, -inf, inf, lowest], device=device)
    index = torch.tensor([0, 0, 1, 2, 2, 3, 4], device=device)
    values, positions = ps.scatter_max(src, index)
    assert values.tolist() == [1.0, 0.0, 0.0, inf, 0.0]  # what beats no finite number counts as nothing
    assert positions.tolist() == [1, 7, 7, 5, 7]
    values, positions = ps.scatter_min(src, index)
    assert values.tolist() == [1.0, 0.0, -inf, 0.0, lowest]
    assert positions.tolist() == [1, 7, 3, 7, 6]
    values, positions = ps.segment_max_csr(src, torch.tensor([0, 2, 3, 5, 6, 6, 7], device=device))
    assert values.tolist() == [1.0, lowest, lowest, inf, 0.0, lowest]
    assert positions.tolist() == [1, 7, 7, 5, 7, 7]
    assert ps.scatter_sum(src, index).isnan().tolist() == [True, True, False, False, False]
    out = torch.full((5,), -inf, device=device)
    assert ps.scatter_max(src, index, out=out)[1].tolist() == [1, 7, 7, 5, 6]
    assert out.tolist() == [1.0, -inf, -inf, inf, lowest]


@pytest.mark.parametrize("device", DEVICES)
def test_ties_go_to_the_first(device: str) -> None:
    src = torch.tensor([2, 1, 2, 1, 0, -0], device=device).repeat(100).float()
    index = torch.zeros(600, dtype=torch.int64, device=device)
    for wide in (src, src[:, None].expand(600, 16)):
        assert ps.scatter_max(wide, index, 0)[1].flatten().unique().tolist() == [0]
        assert ps.scatter_min(wide, index, 0)[1].flatten().unique().tolist() == [4]


@pytest.mark.parametrize("device", DEVICES)
def test_empty(device: str) -> None:
    index = torch.empty(0, dtype=torch.int64, device=device)
    for shape in ((0,), (0, 3)):
        src = torch.empty(shape, device=device)
        for reduction in ("sum", "mean", "mul", "min", "max"):
            fn = getattr(ps, f"scatter_{reduction}")
            empty, of_four = fn(src, index, 0), fn(src, index, 0, dim_size=4)
            for result, size in ((empty, 0), (of_four, 4)):
                values = result[0] if isinstance(result, tuple) else result
                assert values.shape == (size, *shape[1:])
                assert values.count_nonzero() == 0
                if isinstance(result, tuple):
                    assert (result[1] == 0).all()
    three = torch.tensor([7, 2, 7], device=device)
    for shape, dim in (((3, 0), 0), ((0, 3), 1)):  # of an index that is broadcast to nothing nothing counts
        src = torch.empty(shape, device=device)
        assert ps.scatter_sum(src, three, dim).numel() == ps.scatter_max(src, three, dim)[0].shape[dim] == 0
        assert ps.scatter_mean(src, three, dim, dim_size=4).shape[dim] == 4
    assert (
        ps.segment_csr(
            torch.ones(3, device=device), torch.zeros(5, dtype=torch.int64, device=device)
        ).tolist()
        == [0.0] * 4
    )
    assert ps.gather_csr(torch.ones(2, device=device), torch.tensor([0, 0, 0], device=device)).shape == (0,)
    assert ps.scatter_softmax(torch.empty(0, device=device), index, dim_size=0).shape == (0,)


@pytest.mark.parametrize("device", DEVICES)
def test_not_contiguous(device: str) -> None:
    src = torch.randn(6, 40, dtype=torch.float64, device=device).t()[::2]
    index = torch.randint(0, 7, (40,), device=device)[::2]
    for reduction in ("sum", "mean", "mul", "min", "max"):
        torch.testing.assert_close(
            ps.scatter(src, index, 0, dim_size=7, reduce=reduction),
            ps.scatter(src.contiguous(), index.contiguous(), 0, dim_size=7, reduce=reduction),
            rtol=1e-14,
            atol=1e-14,
        )
    full = torch.randint(0, 7, (6, 20), device=device).t()
    assert torch.equal(
        ps.scatter_max(src, full, 0)[1], ps.scatter_max(src.contiguous(), full.contiguous(), 0)[1]
    )
    ordered = full.sort(0).values
    assert torch.allclose(ps.segment_coo(src.t(), ordered.t()), ps.scatter(src.t(), ordered.t(), 1))


@pytest.mark.parametrize("device", DEVICES)
def test_out_is_where_reductions_start(device: str) -> None:
    src = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device)
    index = torch.tensor([0, 0, 1, 3], device=device)
    start = torch.tensor([10.0, -10.0, 5.0, 4.0], device=device)
    expected = {
        "sum": [13.0, -7.0, 5.0, 8.0],
        "mul": [20.0, -30.0, 5.0, 16.0],
        "mean": [6.5, -7.0, 5.0, 8.0],
        "min": [1.0, -10.0, 5.0, 4.0],
        "max": [10.0, 3.0, 5.0, 4.0],
    }
    for reduction, values in expected.items():
        out = start.clone()
        assert ps.scatter(src, index, out=out, reduce=reduction) is not None
        assert out.tolist() == values, reduction
        if reduction != "mul":
            out = start.clone()
            ps.segment_coo(src, index, out=out, reduce=reduction)
            assert out.tolist() == values, reduction
        wide = start[:, None].repeat(1, 3)
        ps.scatter(src[:, None].expand(4, 3), index, 0, out=wide, reduce=reduction)
        assert wide.t().tolist() == [values] * 3, reduction
    untouched = start.clone()
    assert ps.scatter_mul(src[:0], index[:0], out=untouched) is untouched
    assert untouched.tolist() == start.tolist()
    assert ps.scatter_max(src, index, out=start.clone())[1].tolist() == [4, 2, 4, 4]
    part = torch.zeros(3, 4, 2, device=device)
    ps.scatter_sum(src, index, out=part[1, :, 1])  # a view: not contiguous
    assert part[1, :, 1].tolist() == [3.0, 3.0, 0.0, 4.0]
    assert part.sum() == 10
    out = torch.full((6,), -2.0, device=device)
    ps.gather_csr(torch.tensor([1.0, 2.0], device=device), torch.tensor([1, 3, 4], device=device), out)
    assert out.tolist() == [-2.0, 1.0, 1.0, 2.0, -2.0, -2.0]


@pytest.mark.parametrize("device", DEVICES)
def test_composites(device: str) -> None:
    src = torch.tensor([1.0, 4.0, 2.0, 2.0, 7.0], dtype=torch.float64, device=device)
    index = torch.tensor([0, 0, 0, 2, 2], device=device)
    groups = [src[:3], src[3:]]
    std = ps.scatter_std(src, index)
    torch.testing.assert_close(std[[0, 2]], torch.stack([g.std() for g in groups]), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        ps.scatter_std(src, index, unbiased=False)[[0, 2]],
        torch.stack([g.std(correction=0) for g in groups]),
        rtol=1e-5,
        atol=0,
    )
    assert std[1] == 0
    expected = torch.cat([g.softmax(0) for g in groups])
    torch.testing.assert_close(ps.scatter_softmax(src, index), expected)
    torch.testing.assert_close(ps.scatter_log_softmax(src, index), expected.log())
    sums = ps.scatter_logsumexp(src, index, dim_size=4)
    torch.testing.assert_close(sums[[0, 2]], torch.stack([g.logsumexp(0) for g in groups]))
    assert sums[[1, 3]].tolist() == [0.0, 0.0]
    lowest = torch.full((2,), torch.finfo(torch.float32).min, device=device)  # the usual mask
    assert ps.scatter_logsumexp(lowest, torch.tensor([0, 0], device=device)).tolist() == [lowest[0].item()]
    wide = torch.randn(5, 3, device=device)
    torch.testing.assert_close(
        ps.scatter_softmax(wide, index, 0), torch.cat([wide[:3].softmax(0), wide[3:].softmax(0)])
    )


@pytest.mark.parametrize("device", DEVICES)
def test_sum_of_complex_numbers(device: str) -> None:
    src = torch.tensor([1 + 2j, 3 - 1j], device=device)
    assert ps.scatter_sum(src, torch.tensor([1, 1], device=device)).tolist() == [0, 4 + 1j]


@pytest.mark.gpu
def test_poisoned_memory_shows_nowhere() -> None:
    """What torch.empty hands out is full of NaN; whatever the kernels leave unwritten would show."""
    src = torch.randn(5000, 33, device="cuda")
    index = torch.randint(0, 900, (5000,), device="cuda")
    narrow = src[:, 0].contiguous()
    indptr = torch.arange(0, 5001, 50, device="cuda")
    calls = [
        lambda r=reduction, s=data: ps.scatter(s, index, 0, dim_size=1000, reduce=r)
        for reduction in ("sum", "mean", "mul", "min", "max")
        for data in (src, narrow)
    ]
    calls += [
        lambda r=reduction: ps.segment_csr(src, indptr, reduce=r) for reduction in ("sum", "mean", "max")
    ]
    calls += [lambda: ps.gather_csr(src[:100], indptr), lambda: ps.scatter_max(src, index, 0)[1].float()]
    for call in calls:
        expected = call().clone()
        torch.cuda.empty_cache()
        for size in (2**14, 2**18, 2**20, 2**22):
            torch.full((4, size), float("nan"), device="cuda")
        assert torch.equal(call(), expected) or torch.allclose(call(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements() -> None:
    length = 2**31 // 16 + 5
    src = torch.ones((length, 16), dtype=torch.float16, device="cuda")
    src[-1] = 7
    index = torch.arange(length, device="cuda") % 1000
    last = (length - 1) % 1000
    values, positions = ps.scatter_max(src, index, 0, dim_size=1000)
    assert values[last].tolist() == [7.0] * 16
    assert positions[last].tolist() == [length - 1] * 16
    counts = ps.scatter_sum(src[:, :1].float(), index, 0, dim_size=1000)
    assert counts.double().sum().item() == length + 6
    gathered = torch.ops.portable_kernels.gather_by_index(values, index[:, None], 0)
    assert gathered[-1].tolist() == [7.0] * 16
    assert gathered.shape == src.shape
    flat = src.view(-1)
    assert flat.numel() > 2**31
    assert ps.segment_csr(
        flat, torch.tensor([0, flat.numel() - 16, flat.numel()], device="cuda"), reduce="max"
    ).tolist() == [1.0, 7.0]
    check_indices()


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements_by_atomics() -> None:
    """Rows too narrow for grouping, in fours and one by one; counts beyond 32 bits' worth of elements."""
    length, targets = 2**28 + 3, 4096
    index = torch.arange(length, device="cuda") % targets
    rows = torch.ones((length, 8), dtype=torch.uint8, device="cuda")
    assert rows.numel() > 2**31
    counts = torch.bincount(index, minlength=targets)
    assert torch.equal(
        ps.scatter_sum(rows, index, 0, dim_size=targets),
        (counts % 256).to(torch.uint8)[:, None].expand(-1, 8),
    )
    assert bool((ps.scatter_mul(rows, index, 0, dim_size=targets) == 1).all())
    del rows, index
    flat = torch.ones(2**31 + 7, dtype=torch.float16, device="cuda")
    index = torch.arange(flat.numel(), device="cuda") % targets
    assert bool((ps.scatter_mean(flat, index, dim_size=targets) == 1).all())
    check_indices()


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements_in_sorted_segments() -> None:
    length = 2**31 + 9
    src = torch.ones(length, dtype=torch.uint8, device="cuda")
    src[-1] = 7
    index = torch.arange(length, device="cuda") // 2**20
    segments = 2**11 + 1
    values, positions = ps.segment_max_coo(src, index)
    assert values.shape == (segments,)
    assert (values[-1].item(), positions[-1].item()) == (7, length - 1)
    assert positions[:3].tolist() == [0, 2**20, 2**21]
    assert bool((ps.segment_coo(src, index, reduce="min") == 1).all())
    gathered = ps.gather_coo(values, index)
    assert gathered.shape == src.shape
    assert gathered[-9:].tolist() == [7] * 9
    assert bool((gathered[:-9] == 1).all())
    indptr = torch.tensor([*range(0, 2**31 + 1, 2**20), length], device="cuda")
    spread = ps.gather_csr(values, indptr)
    assert torch.equal(spread, gathered)
    check_indices()


@pytest.mark.gpu
def test_deterministic_mode_gives_the_same_bits() -> None:
    src = torch.randn(200_000, device="cuda")
    index = torch.randint(0, 50, (200_000,), device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        first = [ps.scatter(src, index, reduce=r) for r in ("sum", "mean", "mul", "min", "max")]
        for _ in range(3):
            again = [ps.scatter(src, index, reduce=r) for r in ("sum", "mean", "mul", "min", "max")]
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)
