"""What `portable-kernels check` runs of this room."""

from __future__ import annotations

from collections.abc import Callable

import torch

from portable_kernels.checks import Case
from portable_kernels.scatter import functional as fn
from portable_kernels.scatter.sources import atomic_source, backward_source, index_source, segment_source

_ELEMENTS, _TARGETS, _WIDTH = 5000, 700, 32


def _input(device: torch.device, width: int, is_sorted: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    src = torch.randn((_ELEMENTS, width), generator=generator)
    index = torch.randint(0, _TARGETS, (_ELEMENTS,), generator=generator)
    return src.to(device), (index.sort().values if is_sorted else index).to(device)


def _scatter(reduction: str, width: int) -> Callable[[torch.device], list[torch.Tensor]]:
    def run(device: torch.device) -> list[torch.Tensor]:
        src, index = _input(device, width, is_sorted=False)
        src.requires_grad_()
        out = fn.scatter(src, index, 0, dim_size=_TARGETS, reduce=reduction)
        out.square().sum().backward()
        assert src.grad is not None
        return [out.detach(), src.grad]

    return run


def _segment(kind: str, reduction: str) -> Callable[[torch.device], list[torch.Tensor]]:
    def run(device: torch.device) -> list[torch.Tensor]:
        src, index = _input(device, _WIDTH, is_sorted=True)
        src.requires_grad_()
        if kind == "coo":
            out = fn.segment_coo(src, index, dim_size=_TARGETS, reduce=reduction)
        else:
            counts = torch.bincount(index.cpu(), minlength=_TARGETS)
            indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(device)
            out = fn.segment_csr(src, indptr, reduce=reduction)
        out.square().sum().backward()
        assert src.grad is not None
        return [out.detach(), src.grad]

    return run


def _gather(device: torch.device) -> list[torch.Tensor]:
    src, index = _input(device, _WIDTH, is_sorted=True)
    return [fn.gather_coo(src[:_TARGETS], index)]


_BACK = {"mul": (backward_source(torch.float32, 4),)}
_MOVES = (index_source(16), index_source(4, torch.int16))

CASES = [
    *(
        Case(
            f"scatter_{reduction}",
            _scatter(reduction, _WIDTH),
            (segment_source(torch.float32, reduction, 4), *_MOVES, *_BACK.get(reduction, ())),
        )
        for reduction in ("sum", "mean", "mul", "min", "max")
    ),
    *(
        Case(
            f"scatter_{reduction} (atomics)",
            _scatter(reduction, 1),
            (atomic_source(torch.float32), index_source(4)),
        )
        for reduction in ("sum", "mean", "min", "max")
    ),
    *(
        Case(
            f"segment_{reduction}_{kind}",
            _segment(kind, reduction),
            (segment_source(torch.float32, reduction, 4),),
        )
        for kind in ("csr", "coo")
        for reduction in ("sum", "mean", "min", "max")
    ),
    Case("gather_coo", _gather, (index_source(16),)),
]
