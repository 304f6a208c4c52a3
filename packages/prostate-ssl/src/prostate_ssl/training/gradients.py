"""The gradients of a step: kernels launched one by one, or recorded once and replayed as one CUDA graph.

A step of ViT-B launches some thousands of kernels. Where a core launches them more slowly than the GPU works
them off, the GPU waits; and of several ranks all wait for the one whose core is slowest at the moment. A
graph is launched in one call. A step has fixed shapes and asks the host nothing, so it can be recorded, and
what it does with other ranks is recorded with it.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig

from prostate_ssl.batch import CropBatch
from prostate_ssl.errors import ProstateError
from prostate_ssl.objectives.collective import mean_over_ranks
from prostate_ssl.training.networks import Losses, SelfDistillation, StepInputs
from prostate_ssl.training.session import Session

log = logging.getLogger("prostate_ssl")
Record = TypeVar("Record", CropBatch, StepInputs)
_WARM_UP = 3  # compiles what is compiled, and lets libraries choose kernels and allocate work space
# Who sets one of these looks for the call that fails, or asks for what cannot be recorded.
_LAUNCHED_WITH = ("CUDA_LAUNCH_BLOCKING", "PYTORCH_NO_CUDA_MEMORY_CACHING", "TORCH_NCCL_BLOCKING_WAIT")


def wants_graph(cfg: DictConfig, session: Session) -> bool:
    """Whether steps are replayed as a CUDA graph; `auto`: on a GPU, unless ranks share the weights out.

    Raises:
        ProstateError: it is asked for where it cannot be.
    """
    setting = str(cfg.train.cuda_graph).lower()
    modules = ["backbone", "dino_head"]
    if cfg.ibot.separate_head and cfg.ibot.loss_weight > 0:
        modules.append("ibot_head")
    strategies = [cfg.compute_precision.student[name].sharding_strategy for name in modules]
    sharded = session.world_size > 1 and set(strategies) != {"NO_SHARD"}
    possible = session.device.type == "cuda" and not sharded
    if setting == "true" and not possible:
        raise ProstateError(
            "train.cuda_graph=true needs a GPU and, on several of them, sharding_strategy=NO_SHARD in all of "
            "compute_precision. With auto, a graph is used where it can be.",
            2,
        )
    if setting == "auto" and any(os.environ.get(name, "0") not in ("", "0") for name in _LAUNCHED_WITH):
        return False
    return possible and setting != "false"


@contextmanager
def step_stream(cfg: DictConfig, session: Session) -> Iterator[None]:
    """A stream of its own for everything that builds networks and trains them, where steps are recorded.

    Nothing can be recorded on the default stream, nor can what was begun on it go on elsewhere.

    Raises:
        ProstateError: as `wants_graph`.
    """
    if not wants_graph(cfg, session):
        yield
        return
    before = torch.cuda.current_stream(session.device)
    # Before crops, which are cut on another stream: they take what the step leaves.
    stream = torch.cuda.Stream(session.device, priority=-1)
    stream.wait_stream(before)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        with suppress(RuntimeError):  # a GPU that has failed says so again, and would hide what failed
            before.wait_stream(stream)


def build_gradients(networks: SelfDistillation, cfg: DictConfig, session: Session) -> LaunchedGradients:
    """What the configuration asks for; within `step_stream`, as all that comes before and after it."""
    if not wants_graph(cfg, session):
        return LaunchedGradients(networks)
    return GraphedGradients(networks)


class LaunchedGradients:
    """`SelfDistillation.forward_backward` on gradients that were cleared."""

    def __init__(self, networks: SelfDistillation) -> None:
        self._networks = networks

    def __call__(self, batch: CropBatch, step: StepInputs) -> Losses:
        """Put the gradients of a batch into what this rank updates, the mean over the ranks.

        Returns:
            Losses, the mean over all ranks.
        """
        losses = self._passes(batch, step)
        if self._networks.replicas is not None:
            self._networks.replicas.average()
        # Right after it, while ranks are in step: later each would wait for the slowest once more.
        return mean_over_ranks(losses)

    def _passes(self, batch: CropBatch, step: StepInputs) -> Losses:
        """Gradients and losses of this rank alone."""
        self._clear()
        return self._launch(batch, step)

    def _launch(self, batch: CropBatch, step: StepInputs) -> Losses:
        losses = self._networks.forward_backward(batch, step)
        if self._networks.replicas is not None:
            self._networks.replicas.collect()
        return losses

    def _clear(self) -> None:
        for parameter in self._networks.student.parameters():
            parameter.grad = None

    def release(self) -> None:
        """Give back what is held for further steps. Ranks leave each other only when all have done so."""


@dataclass(frozen=True)
class _Recording:
    """A step as a graph, the tensors that it reads, and those that it writes."""

    graph: torch.cuda.CUDAGraph
    batch: CropBatch
    step: StepInputs
    losses: Losses


class GraphedGradients(LaunchedGradients):
    """The same, launched one by one for some steps and then as a graph.

    A step of another form (other shapes, a frozen backbone, another number in place of a tensor) begins anew.
    Gradients stay where they are from step to step: who holds on to one sees the next step's in it.

    Args:
        networks: parallelized, on a GPU; the current stream must not be the default one.

    Raises:
        ProstateError: on the step after them, if it cannot be recorded.
    """

    def __init__(self, networks: SelfDistillation) -> None:
        super().__init__(networks)
        self._launched = 0
        self._form: object = None
        self._recording: _Recording | None = None

    def _passes(self, batch: CropBatch, step: StepInputs) -> Losses:
        form = _form(batch), _form(step)
        if form != self._form:
            self.release()
            self._form, self._launched = form, 0
        if self._launched < _WARM_UP:
            self._launched += 1
            return super()._passes(batch, step)
        if self._recording is None:
            self._recording = self._record(_each(batch, torch.clone), _each(step, torch.clone))
            log.info("From here on, a step's passes are replayed as one CUDA graph.")
        else:
            _copy(batch, self._recording.batch)
            _copy(step, self._recording.step)
        self._recording.graph.replay()
        return {name: value.clone() for name, value in self._recording.losses.items()}

    def release(self) -> None:
        if self._recording is not None:
            # NCCL takes a communicator apart only when no graph can use it any more.
            torch.cuda.synchronize()
            self._recording.graph.reset()
        self._recording, self._form = None, None
        self._clear()

    def _record(self, batch: CropBatch, step: StepInputs) -> _Recording:
        # Without gradients at its beginning, the first backward pass writes them, in every replay.
        self._clear()
        gc.collect()  # what compiling has left behind; later it would take as long as two steps, once
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads cut slices and watch over the ranks meanwhile: what they ask of CUDA is their own.
            with torch.cuda.graph(graph, stream=here, capture_error_mode="thread_local"):
                losses = self._launch(batch, step)
        except RuntimeError as error:
            raise first_cause(error) from error
        return _Recording(graph, batch, step, losses)


def first_cause(error: RuntimeError) -> BaseException:
    """What ended a recording; its own end, which then fails too, would hide it."""
    cause = error.__context__ or error
    if isinstance(cause, torch.cuda.OutOfMemoryError) or not isinstance(cause, Exception):
        return cause
    said = (str(cause).splitlines() or [type(cause).__name__])[0]
    return ProstateError(
        f"The training step could not be recorded as a CUDA graph: {said}. Start the same command again with "
        "train.cuda_graph=false: it is slower and needs no graph."
    )


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
