"""Replicas: every rank holds all weights and updates a share of them (ZeRO stage 1, Rajbhandari et al. 2020).

passes → `collect` → `average` (reduce-scatter) → clip and AdamW on this rank's share → `spread` (all-gather)

As many bytes travel as if all gradients were averaged everywhere; clipping, AdamW and its moments take an
N-th of the time and memory. On GPUs of one machine it is not slower than exchanging beside the backward pass
(`benchmarks/scale.jsonl`), and leaves a time in which the GPU can do what needs no gradients: `passed` says
from when on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from prostate_ssl.objectives.collective import of_all_ranks

_ALIGNED = 8  # values: so that everything begins where kernels can read it 16 bytes at a time
State = dict[str, torch.Tensor]
# Of a parameter's state, by the parameter's index: single numbers, and None for what is as long as it.
Entries = dict[int, dict[str, float | None]]


@dataclass(frozen=True)
class Share:
    """The values of a parameter that this rank updates.

    Attributes:
        values: (n,), of the same memory as the parameter.
        span: which of the parameter's values they are, in their order in memory.
        place: where they lie among all that this rank updates.
    """

    values: nn.Parameter
    span: slice
    place: slice


class Replicas:
    """Parameters that are whole on every rank, in buffers that are cut into equal shares.

    Args:
        modules: for each module its parameters and the dtype in which their gradients travel; the same, in
            the same order, on every rank. From here on the parameters lie in the buffers.
        device: where they lie.

    Attributes:
        modules: names of the modules.
        passed: on a GPU, an event that is recorded as soon as a step's gradients are complete.
    """

    def __init__(
        self, modules: Mapping[str, tuple[Iterable[nn.Parameter], torch.dtype]], device: torch.device
    ) -> None:
        self.modules = frozenset(modules)
        self.passed = torch.cuda.Event() if device.type == "cuda" else None
        by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameters, dtype in modules.values():
            by_dtype.setdefault(dtype, []).extend(parameters)
        self._buffers = [_Buffer(parameters, dtype) for dtype, parameters in by_dtype.items() if parameters]
        self._buffer_of = {p: buffer for buffer in self._buffers for p in buffer.parameters}

    def shares(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """What this rank updates of `parameters`: of replicas its shares, all others as they are."""
        mine = []
        for parameter in parameters:
            if parameter not in self._buffer_of:
                mine.append(parameter)
            elif (share := self.share(parameter)) is not None:
                mine.append(share.values)
        return mine

    def share(self, parameter: nn.Parameter) -> Share | None:
        """This rank's share of a parameter; None if it updates nothing of it.

        Raises:
            KeyError: the parameter is none of these.
        """
        return self._buffer_of[parameter].shares.get(parameter)

    def __contains__(self, parameter: object) -> bool:
        return parameter in self._buffer_of

    def set_aside(self) -> None:
        """Take the gradients out of the parameters before a further backward pass; `collect` adds both.

        It adds them where they are sent from: autograd would add them elsewhere, to be copied from there.
        """
        for buffer in self._buffers:
            buffer.set_aside()

    def collect(self) -> None:
        """Take the gradients out of the parameters, ready to be sent. Part of the passes; may be recorded.

        A parameter without a gradient does not learn in this step; it must be without one on every rank.
        """
        for buffer in self._buffers:
            buffer.collect()

    def average(self) -> None:
        """Give each share its gradient, the mean over the ranks; the stream waits, not this thread."""
        if self.passed is not None:
            self.passed.record()
        for buffer in self._buffers:
            buffer.average()

    def spread(self) -> None:
        """Give every rank the weights that the others have updated."""
        for buffer in self._buffers:
            buffer.spread()

    def whole_state(self, state: Mapping[torch.Tensor, State]) -> dict[nn.Parameter, State]:
        """An optimiser's state of whole parameters, on the CPU. All ranks must call it.

        Args:
            state: by share, as the optimiser of this rank keeps it.
        """
        return {p: whole for buffer in self._buffers for p, whole in buffer.whole_state(state).items()}


class _Buffer:
    """Parameters side by side, and beside them their gradients in the dtype in which they travel."""

    def __init__(self, parameters: list[nn.Parameter], dtype: torch.dtype) -> None:
        self.parameters = parameters
        world, rank = dist.get_world_size(), dist.get_rank()
        self._world, self._nccl = world, dist.get_backend() == "nccl"
        room = [-(-p.numel() // _ALIGNED) * _ALIGNED for p in parameters]
        size = -(-sum(room) // (world * _ALIGNED)) * _ALIGNED
        self._own = slice(rank * size, (rank + 1) * size)
        starts = [sum(room[:index]) for index in range(len(room))]
        self._weights = parameters[0].new_zeros(world * size)
        self._gradients = torch.zeros_like(self._weights, dtype=dtype)
        own = self._gradients[self._own]
        self._in_place = self._nccl and dtype == self._weights.dtype
        self._mean = own if self._in_place else torch.zeros_like(own, dtype=self._weights.dtype)
        self._places = [slice(start, start + p.numel()) for start, p in zip(starts, parameters, strict=True)]
        self._gradient_of: dict[nn.Parameter, torch.Tensor] = {}
        self._aside: dict[nn.Parameter, torch.Tensor] = {}
        self._learning: set[nn.Parameter] = set()
        self.shares: dict[nn.Parameter, Share] = {}
        for place, parameter in zip(self._places, parameters, strict=True):
            self._adopt(place, parameter)

    @torch.no_grad()
    def _adopt(self, place: slice, parameter: nn.Parameter) -> None:
        """Lay a parameter into the buffer, and note what of it is this rank's."""
        values = self._weights[place].view_as(parameter)
        values.copy_(parameter)
        parameter.data = values
        self._gradient_of[parameter] = self._gradients[place].view_as(parameter)
        start, stop = max(place.start, self._own.start), min(place.stop, self._own.stop)
        if start < stop:
            self.shares[parameter] = Share(
                nn.Parameter(self._weights[start:stop]),
                slice(start - place.start, stop - place.start),
                slice(start - self._own.start, stop - self._own.start),
            )

    def set_aside(self) -> None:
        if not self._aside:  # a third pass is added by autograd
            self._aside = self._taken()

    def collect(self) -> None:
        first, last, self._aside = self._aside, self._taken(), {}
        both = first.keys() & last.keys()
        for parameter in both:
            torch.add(first[parameter], last[parameter], out=self._gradient_of[parameter])
        alone = {p: gradient for p, gradient in (first | last).items() if p not in both}
        if alone:
            torch._foreach_copy_([self._gradient_of[p] for p in alone], list(alone.values()))
        self._learning = both | alone.keys()

    def _taken(self) -> dict[nn.Parameter, torch.Tensor]:
        """The parameters' gradients, which are of this rank alone: nobody may take them for the mean."""
        taken = {p: p.grad for p in self.parameters if p.grad is not None}
        for parameter in taken:
            parameter.grad = None
        return taken

    def average(self) -> None:
        own = self._gradients[self._own]
        if self._nccl:
            _scatter_mean(own, self._gradients)
            if not self._in_place:
                self._mean.copy_(own)
        else:  # gloo knows no mean, and scatters nothing in place; what does not learn grows, and is not read
            dist.all_reduce(self._gradients)
            self._mean.copy_(own).div_(self._world)
        for parameter, share in self.shares.items():
            share.values.grad = self._mean[share.place] if parameter in self._learning else None

    def spread(self) -> None:
        self._gather(self._weights)

    def _gather(self, flat: torch.Tensor) -> None:
        """Fill a buffer with every rank's own part of it."""
        own = flat[self._own]
        _gather_shares(flat, own if self._nccl else own.clone())

    def whole_state(self, state: Mapping[torch.Tensor, State]) -> dict[nn.Parameter, State]:
        # From what all have told, every rank derives the same entries, so the same exchanges in one order.
        entries: Entries = {}
        for of_rank in of_all_ranks(self._entries(state)):
            for index, values in of_rank.items():
                entries.setdefault(index, {}).update(values)
        whole = {index: numbers(values) for index, values in sorted(entries.items())}
        for key in sorted({k for values in entries.values() for k, value in values.items() if value is None}):
            flat = self._gathered(state, key)
            for index, values in entries.items():
                if key in values:
                    entry = flat[self._places[index]].view_as(self.parameters[index])
                    whole[index][key] = entry.to("cpu", copy=True)
        return {self.parameters[index]: values for index, values in whole.items()}

    def _entries(self, state: Mapping[torch.Tensor, State]) -> Entries:
        return {
            index: {k: float(v) if v.ndim == 0 else None for k, v in state[self.shares[p].values].items()}
            for index, p in enumerate(self.parameters)
            if p in self.shares and self.shares[p].values in state
        }

    def _gathered(self, state: Mapping[torch.Tensor, State], key: str) -> torch.Tensor:
        """One entry of the states of all shares, side by side as the parameters."""
        # Between steps nobody needs the gradients: saving takes no memory that a step does not take.
        free = self._gradients.dtype == self._weights.dtype
        flat = self._gradients if free else torch.zeros_like(self._weights)
        own = flat[self._own]
        for share in self.shares.values():
            if key in state.get(share.values, {}):
                own[share.place] = state[share.values][key]
        self._gather(flat)
        return flat


# PyTorch 2.13 warns of the old names of both, which are the only ones before it.
def _scatter_mean(share: torch.Tensor, whole: torch.Tensor) -> None:
    (getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor)(
        share, whole, dist.ReduceOp.AVG
    )


def _gather_shares(whole: torch.Tensor, share: torch.Tensor) -> None:
    (getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor)(whole, share)


def numbers(values: dict[str, float | None]) -> State:
    """The single numbers among the entries of a state."""
    return {key: torch.tensor(value) for key, value in values.items() if value is not None}
