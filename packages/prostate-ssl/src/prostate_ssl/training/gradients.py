"""The gradients of a step: kernels launched one by one, or recorded once and replayed as one CUDA graph.

A step of ViT-B launches some thousands of kernels. Where a core launches them more slowly than the GPU works
them off, the GPU waits; and of several ranks all wait for the one whose core is slowest at the moment. A
graph is launched in one call. A step has fixed shapes and asks the host nothing, so it can be recorded, and
what it does with other ranks is recorded with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig

from prostate_ssl.batch import CropBatch
from prostate_ssl.errors import ProstateError
from prostate_ssl.training.networks import Losses, SelfDistillation, StepInputs
from prostate_ssl.training.session import Session, wants_graph

Record = TypeVar("Record", CropBatch, StepInputs)
_WARM_UP = 3  # compiles what is compiled, and lets libraries choose kernels and allocate work space
_WARM_UP_DDP = 12  # DDP rearranges its buckets after the first and takes times in the tenth iteration


def build_gradients(networks: SelfDistillation, cfg: DictConfig, session: Session) -> LaunchedGradients:
    """What the configuration asks for."""
    if not wants_graph(cfg, session.device, session.world_size):
        return LaunchedGradients(networks)
    return GraphedGradients(networks, _WARM_UP if session.world_size == 1 else _WARM_UP_DDP)


class LaunchedGradients:
    """`SelfDistillation.forward_backward` on gradients that were cleared."""

    def __init__(self, networks: SelfDistillation) -> None:
        self._networks = networks

    def __call__(self, batch: CropBatch, step: StepInputs) -> Losses:
        """Put the gradients of a batch into the student's parameters. Returns its losses."""
        self._clear()
        return self._networks.forward_backward(batch, step)

    def _clear(self) -> None:
        for parameter in self._networks.student.parameters():
            parameter.grad = None

    def release(self) -> None:
        """Give back what is held for further steps. Ranks leave each other only when all have done so."""


class GraphedGradients(LaunchedGradients):
    """The same, launched one by one for some steps and then as a graph.

    A step of another form (other shapes, a frozen backbone) begins anew. Gradients stay where they are from
    step to step: who holds on to one sees the next step's in it.

    Args:
        networks: parallelized, on a GPU; the current stream must not be the default one.
        warm_up: steps that are launched one by one first.

    Raises:
        ProstateError: on the step after them, if it cannot be recorded.
    """

    def __init__(self, networks: SelfDistillation, warm_up: int) -> None:
        super().__init__(networks)
        self._warm_up = warm_up
        self._form: object = None
        self._launched = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: CropBatch
        self._step: StepInputs
        self._losses: Losses = {}

    def __call__(self, batch: CropBatch, step: StepInputs) -> Losses:
        form = _form(batch), _form(step)
        if form != self._form:
            self.release()
            self._form, self._launched = form, 0
        if self._launched < self._warm_up:
            self._launched += 1
            return super().__call__(batch, step)
        if self._graph is None:
            self._capture(batch, step)
        else:
            _copy(batch, self._batch)
            _copy(step, self._step)
        assert self._graph is not None
        self._graph.replay()
        return {name: value.clone() for name, value in self._losses.items()}

    def release(self) -> None:
        if self._graph is not None:
            # NCCL takes a communicator apart only when no graph can use it any more.
            torch.cuda.synchronize()
            self._graph.reset()
        self._graph, self._losses, self._form = None, {}, None
        self._clear()

    def _capture(self, batch: CropBatch, step: StepInputs) -> None:
        self._batch, self._step = _each(batch, torch.clone), _each(step, torch.clone)
        # Recorded without gradients, the first backward pass writes them, in every replay.
        self._clear()
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.current_stream()
        try:
            # Other threads cut slices and watch over the ranks meanwhile: what they ask of CUDA is their own.
            with torch.cuda.graph(graph, stream=here, capture_error_mode="thread_local"):
                self._losses = self._networks.forward_backward(self._batch, self._step)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ProstateError(
                f"The training step could not be recorded as a CUDA graph: {str(error).splitlines()[0]}. "
                "Start the same command again with train.cuda_graph=false: it is slower and needs no graph."
            ) from error
        self._graph = graph


def _each(record: Record, function: Callable[[torch.Tensor], torch.Tensor]) -> Record:
    changed: dict[str, Any] = {name: function(value) for name, value in _tensors(record).items()}
    return replace(record, **changed)


def _tensors(record: Record) -> dict[str, torch.Tensor]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def _copy(source: Record, target: Record) -> None:
    into = _tensors(target)
    for name, value in _tensors(source).items():
        into[name].copy_(value, non_blocking=True)


def _form(record: Record) -> tuple[Any, ...]:
    """What must be equal for two records to pass through the same graph."""
    values = (getattr(record, field.name) for field in fields(record))
    return tuple((v.shape, v.dtype, v.device) if isinstance(v, torch.Tensor) else v for v in values)
