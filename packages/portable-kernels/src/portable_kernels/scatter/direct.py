"""Which way a primitive is called.

The dispatcher and its Python autograd take several times as long as a launch: a plain CUDA tensor outside of
tracing goes to the kernels at once. Under torch.func's transforms and in forward mode an `autograd.Function`
has the rules; everything else goes to the operator, whose rules are the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from portable_kernels.scatter.transforms import is_transformed, transformable

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether kernels may be called without the dispatcher: a CUDA tensor that nobody traces or wraps."""
    return (
        tensor.is_cuda
        and type(tensor) in _PLAIN
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0
        and not is_transformed()
    )


def direct_or_dispatched(
    name: str,
    operator: Callable[..., Any],
    cuda: Callable[..., Any],
    context: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., tuple[Any, ...]],
) -> Callable[..., Any]:
    """Return a function that calls `cuda` for plain CUDA tensors, and `operator` for others.

    `context` and `backward` are the operator's rules for autograd; the first argument alone gets gradients.
    """

    def forward(ctx: Any, *args: Any) -> Any:
        output = cuda(*args)
        context(ctx, args, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(cuda.__name__, (torch.autograd.Function,), members)

    def call(src: torch.Tensor, *args: Any) -> Any:
        if is_plain(src):
            if src.requires_grad and torch.is_grad_enabled():
                return function.apply(src, *args)
            return cuda(src, *args)
        if not torch.compiler.is_compiling() and is_transformed():
            return transformed.apply(src, *args)
        return operator(src, *args)

    transformed = transformable(name, operator, call, context, backward)
    return call
