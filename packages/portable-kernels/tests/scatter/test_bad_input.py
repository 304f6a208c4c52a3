"""What is wrong is said before a kernel starts; a bad index touches no memory."""

from __future__ import annotations

import pytest
import torch

from portable_kernels import scatter as ps
from portable_kernels.errors import BadIndexError
from portable_kernels.index_errors import check_indices

SRC = torch.ones(4, 3)
INDEX = torch.tensor([0, 1, 1, 2])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ps.scatter(SRC, INDEX, 0, reduce="median"), ValueError, "reduce must be"),
        (lambda: ps.segment_csr(SRC, INDEX, reduce="mul"), ValueError, "reduce must be"),
        (lambda: ps.segment_coo(SRC, INDEX, reduce="mul"), ValueError, "reduce must be"),
        (lambda: ps.scatter_softmax(SRC.long(), INDEX, 0), ValueError, "floating point"),
        (lambda: ps.scatter_log_softmax(SRC.long(), INDEX, 0), ValueError, "floating point"),
        (lambda: ps.scatter_logsumexp(SRC.long(), INDEX, 0), ValueError, "floating point"),
        (lambda: ps.scatter(SRC, INDEX.int(), 0), RuntimeError, "expected scalar type Long but found Int"),
        (lambda: ps.scatter(SRC, INDEX[:3], 0), RuntimeError, "expand"),
        (lambda: ps.scatter(SRC, torch.zeros(1, 1, 4, dtype=torch.int64), 0), RuntimeError, "expand"),
        (lambda: ps.scatter(SRC, INDEX, 2), IndexError, "Dimension out of range"),
        (lambda: ps.scatter(SRC, INDEX, 0, dim_size=-1), RuntimeError, "negative"),
        (lambda: ps.scatter_max(SRC, INDEX, 0, out=torch.zeros(3, 4)), RuntimeError, "Input mismatch"),
        (lambda: ps.scatter_sum(SRC, INDEX, 0, out=torch.zeros(3, 2)), RuntimeError, "Input mismatch"),
        (lambda: ps.scatter_max(SRC, INDEX, 0, out=torch.zeros(3, 3).double()), RuntimeError, "dtype"),
        (lambda: ps.scatter_max(SRC.bool(), INDEX, 0), RuntimeError, "not implemented for 'Bool'"),
        (lambda: ps.scatter_sum(SRC.to("meta"), INDEX, 0, dim_size=3), RuntimeError, "device"),
        (lambda: ps.segment_csr(SRC, torch.zeros(1, 1, 2, dtype=torch.int64)), RuntimeError, "Input mismatch"),
        (lambda: ps.segment_csr(SRC, INDEX, torch.zeros(4, 3)), RuntimeError, "Input mismatch"),
        (lambda: ps.segment_coo(SRC, torch.zeros(1, 1, 2, dtype=torch.int64)), RuntimeError, "Input mismatch"),
        (lambda: ps.gather_csr(SRC, INDEX[:3]), RuntimeError, "Input mismatch"),
        (lambda: ps.gather_coo(SRC, torch.tensor([1, 0])), RuntimeError, "Input mismatch"),
        (lambda: ps.gather_coo(SRC, INDEX, torch.zeros(9, 3)), RuntimeError, "Input mismatch"),
    ],
)  # fmt: skip
def test_wrong_arguments(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("bad", [-1, 3, 2**40, -(2**40)])
def test_an_index_outside_is_refused_on_the_cpu(bad: int) -> None:
    index = torch.tensor([0, 1, bad, 2])
    for reduction in ("sum", "mean", "mul", "min", "max"):
        with pytest.raises(BadIndexError, match=str(bad)):
            ps.scatter(SRC, index, 0, dim_size=3, reduce=reduction)
    with pytest.raises(IndexError):
        ps.segment_csr(SRC, torch.tensor([0, 5]))
    with pytest.raises(RuntimeError):
        ps.gather_coo(SRC, torch.tensor([0, 7]))


@pytest.mark.gpu
@pytest.mark.parametrize("width", [3, 16])
@pytest.mark.parametrize("bad", [-1, 3, 2**40, -(2**40)])
def test_an_index_outside_is_reported_on_a_gpu_and_the_context_lives(bad: int, width: int) -> None:
    src = torch.ones(4, width, device="cuda")
    index = torch.tensor([0, 1, bad, 2], device="cuda")
    guard = torch.full((1 << 20,), 5.0, device="cuda")
    full = index[:, None].expand(4, width).contiguous()
    calls = [
        lambda r=r: ps.scatter(src, index, 0, dim_size=3, reduce=r)
        for r in ("sum", "mean", "mul", "min", "max")
    ]
    calls += [
        lambda r=r: ps.scatter(src, full, 0, dim_size=3, reduce=r)
        for r in ("sum", "mean", "mul", "min", "max")
    ]
    calls += [
        lambda: ps.segment_csr(src, torch.tensor([0, bad if bad != 3 else 9], device="cuda")),
        lambda: ps.segment_coo(src, index, dim_size=3),
        lambda: ps.gather_coo(src[:3], index),
    ]
    for call in calls:
        # The kernel that meets it has often reported before the op's next one starts: then the op itself raises.
        with pytest.raises(BadIndexError, match="outside"):
            call()
            check_indices()
    assert bool((guard == 5).all())
    assert ps.scatter_sum(src, torch.zeros(4, dtype=torch.int64, device="cuda"), 0).sum().item() == 4 * width
    check_indices()


@pytest.mark.gpu
def test_the_next_operation_reports() -> None:
    src = torch.ones(4, 16, device="cuda")
    index = torch.tensor([0, 1, 9, 2], device="cuda")
    torch.ops.portable_kernels.gather_by_index(src, index[:, None], 0)
    torch.cuda.synchronize()
    with pytest.raises(BadIndexError, match="earlier"):
        ps.scatter_sum(src, torch.zeros(4, dtype=torch.int64, device="cuda"), 0, dim_size=3)
    check_indices()


@pytest.mark.gpu
def test_devices_are_compared() -> None:
    with pytest.raises(RuntimeError, match="device"):
        ps.scatter(SRC.cuda(), INDEX, 0)
