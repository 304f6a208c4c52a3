"""Checkpoints: one file of tensors and plain values, whole or not there at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from prostate_ssl.errors import ProstateError
from prostate_ssl.files import disk_is_full, why_unreadable, write_atomically
from prostate_ssl.training.replicas import Replicas
from prostate_ssl.training.session import Session

log = logging.getLogger("prostate_ssl")
_NAME = re.compile(r"model_(\d+)\.rank_0\.pth$")


def checkpoint_name(completed: int) -> str:
    """`model_0001000.rank_0.pth` after 1,000 iterations."""
    return f"model_{completed:07d}.rank_0.pth"


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a possibly sharded tensor, on the CPU. All ranks must call it."""
    whole = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()
    # Who loads a part of a buffer would hold all of it.
    return whole if whole.untyped_storage().nbytes() == whole.nbytes else whole.clone()


def copy_into(target: torch.Tensor, whole: torch.Tensor) -> None:
    """Fill a possibly sharded tensor from a whole one."""
    if isinstance(target, DTensor):
        whole = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements)
    with torch.no_grad():
        target.copy_(whole)


@dataclass
class Checkpointer:
    """Saves and restores a run in `folder`.

    Attributes:
        folder: where the files lie; all ranks see the same folder.
        networks: student, teacher and centers; their state dict has the published names.
        optimizer: its state is stored by parameter name, so that groups and world sizes may change.
        max_to_keep: older files are removed.
        replicas: parameters of which the optimiser holds this rank's share.
    """

    folder: Path
    networks: nn.Module
    optimizer: torch.optim.Optimizer
    session: Session
    max_to_keep: int = 3
    replicas: Replicas | None = None

    def save(self, completed: int, extra: dict[str, Any]) -> None:
        """Write the state after `completed` iterations; the pointer moves once the file is complete.

        Raises:
            ProstateError: the disk is full or the folder cannot be written; the files before stay.
        """
        state = self._gather() | {"iteration": completed - 1} | extra
        problem = [""]
        if self.session.is_main:
            problem[0] = self._write(completed, state)
        if self.session.world_size > 1:
            dist.broadcast_object_list(problem, src=0)
        if problem[0]:
            raise ProstateError(problem[0])

    def _write(self, completed: int, state: dict[str, Any]) -> str:
        path = self.folder / checkpoint_name(completed)
        try:
            write_atomically(path, lambda file: torch.save(state, file))
            write_atomically(self.folder / "last_checkpoint.rank_0", path.name.encode())
        except (OSError, RuntimeError) as error:
            reason = "the disk is full" if disk_is_full(error) else str(error).splitlines()[0]
            kept = self.candidates()
            last = f"The last good one is {kept[0].name}" if kept else "There is none before it"
            return (
                f"The checkpoint at iteration {completed} could not be written to {self.folder}: {reason}. "
                f"{last}; make room and run the same command again to go on from there."
            )
        for old in self.candidates()[self.max_to_keep :]:
            old.unlink(missing_ok=True)
        return ""

    def _gather(self) -> dict[str, Any]:
        model = {name: full_tensor(t) for name, t in self.networks.state_dict().items()}
        optimizer, state = {}, self.optimizer.state
        shared = {} if self.replicas is None else self.replicas.whole_state(state)
        for name, parameter in self.networks.named_parameters():
            if parameter in shared:
                optimizer[name] = shared[parameter]
            elif parameter in state:
                optimizer[name] = {k: full_tensor(v) for k, v in state[parameter].items()}
        return {"model": model, "optimizer": optimizer}

    def candidates(self) -> list[Path]:
        """Checkpoint files, newest first."""
        return checkpoint_files(self.folder)

    def resume(self) -> dict[str, Any] | None:
        """Restore the newest readable checkpoint of the folder.

        Returns:
            The plain values of the file (`iteration` is the last completed one, counted from 0), or None if
            there is nothing to resume.

        Raises:
            ProstateError: there are checkpoints, and none of them can be read; or another architecture's.
        """
        for stale in self.folder.glob(".*.tmp") if self.session.is_main else ():
            stale.unlink(missing_ok=True)
        damaged = []
        for path in self.candidates():
            try:
                content = read_checkpoint(path)
                if not isinstance(content.get("iteration"), int):
                    raise ProstateError(f"{path} does not say after which iteration it was saved.")
            except ProstateError as error:
                damaged.append(str(error))
                log.warning("%s Trying the one before.", error)
                continue
            self.restore(content, path)
            return {name: value for name, value in content.items() if name not in ("model", "optimizer")}
        if damaged:  # to begin again unasked would throw away what a copy of the file may still hold
            raise ProstateError(
                f"No checkpoint of {self.folder} can be read: {damaged[0]} Put a good copy there, or start "
                "anew with --no-resume."
            )
        return None

    def restore(self, content: dict[str, Any], path: Path) -> None:
        """Put a file's tensors into the networks and the optimiser.

        Raises:
            ProstateError: the checkpoint belongs to another architecture or other heads.
        """
        own = self.networks.state_dict()
        theirs = content["model"]
        wrong = [n for n in own if n not in theirs or theirs[n].shape != own[n].shape]
        if wrong or theirs.keys() - own.keys():
            name = wrong[0] if wrong else sorted(theirs.keys() - own.keys())[0]
            there = tuple(theirs[name].shape) if name in theirs else "absent"
            here = tuple(own[name].shape) if name in own else "absent"
            raise ProstateError(
                f"{path} belongs to another configuration: {name} is {there} there and {here} here. Use the "
                "configuration that it was trained with, another --output-dir, or --no-resume."
            )
        for name, tensor in own.items():
            copy_into(tensor, theirs[name])
        for name, parameter in self.networks.named_parameters():
            if name in content.get("optimizer", {}):
                self._restore_state(parameter, content["optimizer"][name])

    def _restore_state(self, parameter: nn.Parameter, state: dict[str, torch.Tensor]) -> None:
        if self.replicas is not None and parameter in self.replicas:
            share = self.replicas.share(parameter)
            if share is None:
                return
            parameter, span = share.values, share.span
            state = {k: v if k == "step" else v.flatten()[span] for k, v in state.items()}
        self.optimizer.state[parameter] = {k: _like_state(k, v, parameter) for k, v in state.items()}


def _like_state(key: str, value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A state tensor placed like its parameter; the step counter is a scalar where the kernel wants it."""
    if key == "step":
        on_gpu = parameter.is_cuda
        return value.to(parameter.device if on_gpu else "cpu", torch.float32).clone()
    target = torch.zeros_like(parameter)
    copy_into(target, value)
    return target.detach()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, mapped into memory; no pickled code is run.

    Raises:
        ProstateError: not there, not complete, or not a checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise ProstateError(f"No checkpoint at {path}.") from None
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise ProstateError(f"{path} cannot be read as a checkpoint: {why_unreadable(error)}.") from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(v, torch.Tensor) for v in model.values()):
        raise ProstateError(f"{path} is no training checkpoint: it has no «model» of tensors.")
    return content


def checkpoint_files(folder: Path) -> list[Path]:
    """Checkpoint files of a run's folder, newest first."""
    found = [(int(match[1]), path) for path in folder.glob("model_*") if (match := _NAME.match(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def readable_checkpoints(folder: Path) -> Iterator[Path]:
    """Checkpoint files of a run's folder that can be read, newest first; the others are named in the log."""
    for path in checkpoint_files(folder):
        try:
            read_checkpoint(path)
        except ProstateError as error:
            log.warning("%s Left out.", error)
            continue
        yield path


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint file of a run's folder."""
    return next(iter(checkpoint_files(folder)), None)
