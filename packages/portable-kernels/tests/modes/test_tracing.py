"""torch.jit.trace records operators, whose sizes follow the data, as the originals' compiled ones do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from portable_kernels import scatter as ps

from .calls import CALLS

SRC, LONGER = torch.arange(18.0).view(6, 3), torch.arange(24.0).view(8, 3) / 7 + 1
INDEX, OTHER = torch.tensor([0, 1, 1, 2, 0, 2]), torch.tensor([0, 1, 4, 2, 0, 2, 3, 3])
POINTERS, OTHERS = torch.tensor([0, 2, 6]), torch.tensor([0, 1, 1, 4, 8])
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SIZED_BY_DATA: dict[str, tuple[Callable[..., Any], torch.Tensor, torch.Tensor]] = {
    **{f"scatter_{r}": (getattr(ps, f"scatter_{r}"), INDEX, OTHER) for r in ("sum", "mean", "mul", "min", "max")},
    **{f"scatter_{r}": (getattr(ps, f"scatter_{r}"), INDEX, OTHER) for r in ("std", "softmax", "log_softmax")},
    **{
        f"segment_{r}_coo": (getattr(ps, f"segment_{r}_coo"), INDEX.sort().values, OTHER.sort().values)
        for r in ("sum", "mean", "min", "max")
    },
    **{f"segment_{r}_csr": (getattr(ps, f"segment_{r}_csr"), POINTERS, OTHERS) for r in ("sum", "mean", "min", "max")},
}  # fmt: skip


def _both(function: Callable[..., Any], example: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, Any]:
    """What the trace of an example gives for other arguments, and what the function does."""
    traced = torch.jit.trace(function, example, check_trace=False)
    return traced(*other), function(*other)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SIZED_BY_DATA)
def test_another_index_of_another_size(name: str, device: str) -> None:
    function, example, other = (
        part.to(device) if isinstance(part, torch.Tensor) else part for part in SIZED_BY_DATA[name]
    )
    by_first = (lambda src, index: function(src, index, 0)) if name.startswith("scatter") else function
    found, expected = _both(by_first, (SRC.to(device), example), (LONGER.to(device), other))
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("device", DEVICES)
def test_gathers_of_another_length(device: str) -> None:
    for function, example, other in (
        (ps.gather_csr, (SRC[:2], POINTERS), (LONGER[:4], OTHERS)),
        (ps.gather_coo, (SRC[:3], INDEX.sort().values), (LONGER[:5], OTHER.sort().values)),
    ):
        on = tuple(tuple(t.to(device) for t in each) for each in (example, other))
        torch.testing.assert_close(*_both(function, *on))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CALLS)
def test_every_op_is_recorded(name: str, device: str) -> None:
    """With other values of the same sizes: kernels that are called past the dispatcher leave no trace."""
    call = CALLS[name]
    example = call.on(device)
    other = tuple(t * 0.9 if t.is_floating_point() else t for t in example)
    found, expected = _both(lambda *t: call(*t), example, other)
    torch.testing.assert_close(tuple(found) if isinstance(found, (tuple, list)) else (found,), expected)
