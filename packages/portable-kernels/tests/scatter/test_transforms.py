"""torch.func and forward mode, as torch_scatter's sums and means have them, against torch.autograd.functional."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import func
from torch.autograd import forward_ad, functional

from portable_kernels import scatter as ps

INDEX = torch.tensor([0, 1, 0, 2, 2, 5])
WIDE = torch.tensor([[0, 1], [1, 1], [0, 0], [5, 2], [2, 2], [5, 0]])
POINTERS = torch.tensor([0, 2, 2, 5, 6])


def _by_index(reduction: str, index: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda src: ps.scatter(src, index.to(src.device), 0, dim_size=7, reduce=reduction)


def _by_segment(reduction: str) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda src: ps.segment_csr(src, POINTERS.to(src.device), reduce=reduction)


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **{f"scatter_{r}": _by_index(r, INDEX) for r in ("sum", "mean", "mul", "min", "max")},
    **{f"scatter_{r}_wide": _by_index(r, WIDE) for r in ("sum", "mean", "mul", "max")},
    **{f"segment_{r}_csr": _by_segment(r) for r in ("sum", "mean", "min", "max")},
    "segment_mean_coo": lambda src: ps.segment_coo(
        src, INDEX.sort().values.to(src.device), dim_size=7, reduce="mean"
    ),
    "gather_coo": lambda src: ps.gather_coo(src, torch.tensor([0, 0, 3, 5, 5], device=src.device)),
    "gather_csr": lambda src: ps.gather_csr(src, torch.tensor([0, 2, 2, 5, 6, 7, 9], device=src.device)),
    "softmax": lambda src: ps.scatter_softmax(src, INDEX.to(src.device), 0),
}
NO_FORWARD_MODE = "mul"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def src(request: pytest.FixtureRequest) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(6, 2, dtype=torch.float64, device=request.param)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives(name: str, src: torch.Tensor) -> None:
    call = FUNCTIONS[name]
    jacobian, tangent = functional.jacobian(call, src), torch.randn_like(src)
    torch.testing.assert_close(func.jacrev(call)(src), jacobian)
    if NO_FORWARD_MODE in name:
        with pytest.raises(NotImplementedError, match="forward-mode"):
            func.jvp(call, (src,), (tangent,))
        return
    expected = (jacobian * tangent).sum((-1, -2))
    torch.testing.assert_close(func.jvp(call, (src,), (tangent,))[1], expected)
    with forward_ad.dual_level():
        result = forward_ad.unpack_dual(call(forward_ad.make_dual(src, tangent)))
    assert result.tangent is not None
    torch.testing.assert_close(result.tangent, expected)

    def energy(values: torch.Tensor) -> torch.Tensor:
        return (call(values) ** 2).sum()

    torch.testing.assert_close(func.hessian(energy)(src), functional.hessian(energy, src))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_batches(name: str, src: torch.Tensor) -> None:
    """One call a batch, without torch's slow way out, which warns."""
    call, batch = FUNCTIONS[name], torch.randn(3, *src.shape, dtype=src.dtype, device=src.device)
    expected = torch.stack([call(sample) for sample in batch])
    torch.testing.assert_close(func.vmap(call)(batch), expected)
    torch.testing.assert_close(func.vmap(call, in_dims=1)(batch.transpose(0, 1)), expected)
    energy = func.grad(lambda values: (call(values) ** 2).sum())
    torch.testing.assert_close(func.vmap(energy)(batch), torch.stack([energy(sample) for sample in batch]))


@pytest.mark.parametrize("reduction", ["sum", "mean", "mul", "min", "max"])
@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_an_index_each(reduction: str, shape: tuple[int, ...], src: torch.Tensor) -> None:
    indices = torch.randint(0, 7, (3, *shape), device=src.device)
    one = src[:, 0] if len(shape) == 1 else src

    def call(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return ps.scatter(values, index, 0, dim_size=7, reduce=reduction)

    for values in (one, src):
        expected = torch.stack([call(values, index) for index in indices])
        torch.testing.assert_close(func.vmap(call, in_dims=(None, 0))(values, indices), expected)
        torch.testing.assert_close(func.vmap(lambda index: call(values, index))(indices), expected)  # noqa: B023
    slope = func.grad(lambda values, index: (call(values, index) ** 2).sum())
    torch.testing.assert_close(
        func.vmap(slope, in_dims=(None, 0))(src, indices), torch.stack([slope(src, i) for i in indices])
    )


def test_gradients_of_gradients_reach_what_lies_outside(src: torch.Tensor) -> None:
    outside = src.clone().requires_grad_()
    func.grad(lambda values: (_by_index("mean", INDEX)(values) ** 3).sum())(outside).sum().backward()
    plain = src.clone().requires_grad_()
    (slope,) = torch.autograd.grad((_by_index("mean", INDEX)(plain) ** 3).sum(), plain, create_graph=True)
    slope.sum().backward()
    torch.testing.assert_close(outside.grad, plain.grad)
