"""The gradients of replicas, averaged over the ranks in one call after the passes of a step.

On GPUs of one machine it is not slower than exchanging beside the backward pass (`benchmarks/scale.jsonl`),
and leaves a time in which the GPU can do what needs no gradients: `passed` says from when on.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist

_ALIGNED = 8  # values: so that every gradient begins where kernels can read it 16 bytes at a time


class GradientExchange:
    """Averages gradients over all ranks, in one collective for each dtype that they travel in.

    Args:
        parameters: (parameter, dtype in which its gradient travels), in the same order on every rank.
        device: where they lie.

    Attributes:
        passed: on a GPU, an event that is recorded as soon as a step's gradients are complete.
    """

    def __init__(self, parameters: Iterable[tuple[torch.Tensor, torch.dtype]], device: torch.device) -> None:
        self.passed = torch.cuda.Event() if device.type == "cuda" else None
        self._parameters = list(parameters)
        self._world = dist.get_world_size()
        self._averages = dist.get_backend() == "nccl"
        self._form: object = None
        self._buffers: list[_Buffer] = []

    def collect(self) -> None:
        """Lay the gradients side by side, ready to be sent. Part of the passes; may be recorded as a graph.

        A parameter without a gradient is left out; it must be without one on every rank.
        """
        there = [(p, dtype) for p, dtype in self._parameters if p.grad is not None]
        form = tuple(id(p) for p, _ in there)
        if form != self._form:
            self._form = form
            dtypes = dict.fromkeys(dtype for _, dtype in there)
            self._buffers = [_Buffer([p for p, d in there if d == dtype], dtype) for dtype in dtypes]
        for buffer in self._buffers:
            buffer.collect()

    def average(self) -> None:
        """Make every gradient the mean over the ranks; the current stream waits for it, not this thread."""
        if self.passed is not None:
            self.passed.record()
        for buffer in self._buffers:
            dist.all_reduce(buffer.flat, dist.ReduceOp.AVG if self._averages else dist.ReduceOp.SUM)
            if not self._averages:
                buffer.flat /= self._world
            buffer.hand_out()


class _Buffer:
    """Gradients of one dtype side by side."""

    def __init__(self, parameters: list[torch.Tensor], dtype: torch.dtype) -> None:
        self._parameters = parameters
        room = [-(-p.numel() // _ALIGNED) * _ALIGNED for p in parameters]
        self.flat = torch.zeros(sum(room), dtype=dtype, device=parameters[0].device)
        parts = zip(self.flat.split(room), parameters, strict=True)
        self._views = [part[: p.numel()].view_as(p) for part, p in parts]
        self._same = all(p.dtype == dtype for p in parameters)

    def collect(self) -> None:
        torch._foreach_copy_(self._views, self._gradients())
        if self._same:  # then what has been averaged need not be copied back
            for parameter, view in zip(self._parameters, self._views, strict=True):
                parameter.grad = view

    def hand_out(self) -> None:
        if not self._same:
            torch._foreach_copy_(self._gradients(), self._views)

    def _gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self._parameters if p.grad is not None]
