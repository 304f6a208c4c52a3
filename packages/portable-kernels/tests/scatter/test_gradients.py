"""Gradients by finite differences in float64, second order too; scripting, tracing, fake tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from portable_kernels import scatter as ps

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
INDEX = torch.tensor([0, 2, 0, 2, 2, 3])
INDPTR = torch.tensor([0, 2, 2, 5, 6])

FUNCTIONS: dict[str, Callable[[torch.Tensor, str], torch.Tensor]] = {
    **{f"scatter {r}": lambda x, d, r=r: ps.scatter(x, INDEX.to(d), 0, reduce=r) for r in ("sum", "mean", "mul", "min", "max")},
    **{f"csr {r}": lambda x, d, r=r: ps.segment_csr(x, INDPTR.to(d), reduce=r) for r in ("sum", "mean", "min", "max")},
    **{f"coo {r}": lambda x, d, r=r: ps.segment_coo(x, INDEX.sort().values.to(d), reduce=r) for r in ("sum", "mean", "min", "max")},
    "gather csr": lambda x, d: ps.gather_csr(x[:4], INDPTR.to(d)),
    "gather coo": lambda x, d: ps.gather_coo(x, INDEX.sort().values.to(d)),
    "softmax": lambda x, d: ps.scatter_softmax(x, INDEX.to(d), 0),
    "log_softmax": lambda x, d: ps.scatter_log_softmax(x, INDEX.to(d), 0),
    "logsumexp": lambda x, d: ps.scatter_logsumexp(x, INDEX.to(d), 0),
    "std": lambda x, d: ps.scatter_std(x, torch.tensor([0, 1, 0, 1, 1, 0], device=d), 0),
    "scatter full index": lambda x, d: ps.scatter(x, (INDEX.to(d)[:, None] + torch.arange(x.shape[1], device=d)) % 4, 0, reduce="mean"),
    "sum into out": lambda x, d: ps.scatter_sum(x, INDEX.to(d), 0, out=x[:4] * 2),
    "max into out": lambda x, d: ps.scatter_max(x, INDEX.to(d), 0, out=x[:4] * 2)[0],
}  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient(name: str, device: str) -> None:
    torch.manual_seed(3)
    for inner in (2, 9):  # on a GPU: by atomics, by sorting
        x = torch.randn(6, inner, dtype=torch.float64, device=device, requires_grad=True)
        # Sums by atomics differ from run to run in their last bits.
        assert gradcheck(lambda x: FUNCTIONS[name](x, device), (x,), nondet_tol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name", ["scatter sum", "scatter mean", "scatter max", "csr mean", "csr min", "gather csr", "scatter mul"]
)
def test_second_derivative(name: str, device: str) -> None:
    torch.manual_seed(3)
    x = torch.randn(6, 2, dtype=torch.float64, device=device, requires_grad=True)
    assert gradgradcheck(lambda x: FUNCTIONS[name](x**2, device), (x,))


def test_product_with_a_zero_has_the_originals_gradient() -> None:
    x = torch.tensor([0.0, 3.0, 2.0], requires_grad=True)
    ps.scatter_mul(x, torch.tensor([0, 0, 1])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 1.0]


def test_results_can_be_changed_in_place() -> None:
    x = torch.ones(4, requires_grad=True)
    for reduction in (
        "sum",
        "mean",
        "min",
        "max",
    ):  # a product is needed for its gradient, as in the original
        ps.scatter(x, torch.tensor([0, 0, 1, 1]), reduce=reduction).add_(1).sum().backward()
    ps.segment_csr(x, torch.tensor([0, 2, 4])).mul_(2).sum().backward()


@pytest.mark.parametrize("name", [n for n in ps.__all__ if n != "scatter_std"])
def test_every_function_can_be_scripted(name: str) -> None:
    fn = getattr(ps, name)
    scripted = torch.jit.script(fn)
    src = torch.arange(6.0)
    selector = INDPTR if "csr" in name else INDEX.sort().values
    src = src[:4] if name == "gather_csr" else src
    ours, theirs = scripted(src, selector), fn(src, selector)
    ours, theirs = (x if isinstance(x, tuple) else (x,) for x in (ours, theirs))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_scripted_module_can_call_the_dispatcher_ops() -> None:
    torch.jit.script(ps.scatter_std)

    class Pool(torch.nn.Module):
        def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            return torch.ops.portable_kernels.scatter_max(x, index, 0, None, 3)[0]

    assert torch.jit.script(Pool())(torch.arange(4.0), torch.tensor([0, 0, 2, 2])).tolist() == [1.0, 0.0, 3.0]


@pytest.mark.parametrize("name", ["scatter mean", "scatter max", "csr sum", "coo min", "softmax"])
def test_torch_compile_sees_whole_graphs(name: str) -> None:
    call = {
        "scatter mean": lambda x: ps.scatter_mean(x, INDEX, 0, dim_size=4),
        "scatter max": lambda x: ps.scatter_max(x, INDEX, 0, dim_size=4)[0],
        "csr sum": lambda x: ps.segment_csr(x, INDPTR),
        "coo min": lambda x: ps.segment_coo(x, INDEX.sort().values, dim_size=4, reduce="min"),
        "softmax": lambda x: ps.scatter_softmax(x, INDEX, 0, dim_size=4),
    }[name]
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    ours = torch.randn(6, 3, requires_grad=True)
    plain = ours.detach().clone().requires_grad_()
    a, b = compiled(ours), call(plain)
    torch.testing.assert_close(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)


@pytest.mark.parametrize("device", DEVICES)
def test_operators_keep_the_dispatchers_rules(device: str) -> None:
    src = torch.randn(6, 3, dtype=torch.float64, device=device, requires_grad=True)
    index, indptr = INDEX.to(device)[:, None], INDPTR.to(device)
    ops = torch.ops.portable_kernels
    for reduction in ("sum", "mean", "mul", "min", "max"):
        torch.library.opcheck(ops.reduce_by_index, (src, index, 0, 4, reduction))
    for reduction in ("sum", "mean", "min", "max"):
        torch.library.opcheck(ops.reduce_segments, (src, indptr, reduction))
    torch.library.opcheck(ops.gather_by_index, (src[:4], index, 0))
    torch.library.opcheck(ops.gather_segments, (src[:4], indptr, 6))
    torch.library.opcheck(
        ops.spread, (src[:4], torch.tensor([[0, 1, 6]] * 2 + [[2, 2, 2], [3, 3, 3]], device=device), 0, 6)
    )
