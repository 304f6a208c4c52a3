"""torch.func's transforms and forward mode for the primitives, by the rules that they have for autograd.

What `torch.library` registers for autograd knows neither functorch's transforms nor tangents, which it would
lose without a word. A batch (vmap) is one more dimension of `src` in front.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether functorch's transforms or forward-mode differentiation are at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def of_winners(values: torch.Tensor, arg: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    """Return what `values`, `length` along `dim`, holds at positions `arg`; 0 at `length`: nothing won."""
    if length == 0:
        return values.new_zeros(arg.shape)
    return values.gather(dim, arg.clamp(max=length - 1)).masked_fill(arg >= length, 0)


def _batched_index(index: torch.Tensor, place: int | None, dim: int, rank: int) -> torch.Tensor:
    """Return an index for a `src` of `rank` whose batch is in front.

    `place`: where the index has that batch; None where it is shared: 1-D, it stays so. `dim`: the reduced
    dimension within a sample.
    """
    if place is None:
        return index if index.dim() == 1 else index.unsqueeze(0)
    index = index.movedim(place, 0)
    return (
        index
        if index.dim() == rank
        else index.reshape(-1, *(1,) * dim, index.shape[1], *(1,) * (rank - dim - 2))
    )


def _batched(
    name: str, call: Callable[..., Any], in_dims: tuple[Any, ...], batch: int, args: tuple[Any, ...]
) -> tuple[Any, Any]:
    """Call a primitive once for a batch → its results, and where their batch stands (None: shared)."""
    (src, index, *others), (src_dim, index_dim, *_) = args, in_dims
    src = src.expand(batch, *src.shape) if src_dim is None else src.movedim(src_dim, 0)
    if name.endswith("segments"):
        index = index.unsqueeze(0) if index_dim is None else index.movedim(index_dim, 0)
        result = call(src, index, *others)
    else:
        own_1d = index_dim is not None and index.dim() == 2
        index = _batched_index(index, index_dim, others[0], src.dim())
        if name == "spread":
            index = index.expand(src.shape)
        result = call(src, index, others[0] + 1, *others[1:])
    if not isinstance(result, tuple):
        return result, 0
    values, extra = result
    if "mean" in others and extra.numel():  # counts, as many as the index has rows
        if index_dim is None:
            return (values, extra if extra.dim() == 1 else extra[0]), (0, None)
        return (values, extra.reshape(batch, -1) if own_1d else extra), (0, 0)
    return result, (0, 0 if "min" in others or "max" in others else None)


def transformable(
    name: str,
    operator: Callable[..., Any],
    call: Callable[..., Any],
    context: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., tuple[Any, ...]],
) -> Any:
    """Return the `autograd.Function` of a primitive, whose first two arguments are its only tensors.

    `operator` is what runs in the end; `call` leads to the next transform.
    """

    def forward(*args: Any) -> Any:
        return (call if torch._C._are_functorch_transforms_active() else operator)(*args)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        context(ctx, inputs, output)
        ctx.others = inputs[2:]
        ctx.save_for_forward(inputs[1], *(output[1:] if isinstance(output, tuple) else ()))

    def trimmed_backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return backward(ctx, *grads)[: 2 + len(ctx.others)]

    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> Any:
        reduction = getattr(ctx, "reduction", "sum")
        if reduction == "mul":
            raise NotImplementedError("products by index have no forward-mode derivative: use reverse mode")
        index, *extra = ctx.saved_tensors
        if reduction in ("min", "max"):
            return of_winners(tangent, extra[0], ctx.dim, ctx.length), None
        result = call(tangent, index, *ctx.others)  # linear
        return (result[0], None) if isinstance(result, tuple) else result

    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return _batched(name, call, in_dims, info.batch_size, args)

    rules = {
        "forward": forward,
        "setup_context": setup_context,
        "backward": trimmed_backward,
        "jvp": jvp,
        "vmap": vmap,
    }
    members = {rule: staticmethod(function) for rule, function in rules.items()}
    return type(name, (torch.autograd.Function,), members)
