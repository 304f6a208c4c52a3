"""Looking at the losses without making the GPU wait, and stopping at the first that is no number."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch

from prostate_ssl.batch import CropBatch
from prostate_ssl.errors import ProstateError
from prostate_ssl.files import write_atomically, write_json
from prostate_ssl.objectives.collective import of_all_ranks, world_size


@dataclass(frozen=True)
class Pending:
    """Values of an iteration that are on their way to the host."""

    iteration: int
    names: tuple[str, ...]
    values: torch.Tensor
    ready: torch.cuda.Event | None
    batch: CropBatch


class LossWatch:
    """Hands each iteration's values to the host one iteration late.

    Reading a loss at once would keep the GPU idle while the next step is prepared. The batches of the
    pending iterations are kept for the post-mortem.
    """

    def __init__(self, lag: int) -> None:
        self.lag = lag
        self.pending: deque[Pending] = deque()

    def push(self, iteration: int, values: dict[str, torch.Tensor], batch: CropBatch) -> None:
        """Start the copy of an iteration's scalars, which are the same on all ranks."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        ready = None
        if stacked.is_cuda:
            host = torch.empty(stacked.shape, pin_memory=True)
            host.copy_(stacked, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
            stacked = host
        self.pending.append(Pending(iteration, tuple(values), stacked, ready, batch))

    def pop(self, everything: bool = False) -> list[tuple[Pending, dict[str, float]]]:
        """Iterations whose values are due, oldest first."""
        due = []
        while self.pending and (everything or len(self.pending) > self.lag):
            entry = self.pending.popleft()
            if entry.ready is not None:
                entry.ready.synchronize()
            due.append((entry, dict(zip(entry.names, entry.values.tolist(), strict=True))))
        return due


def refuse_nan(
    entry: Pending, values: dict[str, float], case_names: list[str], folder: Path, rank: int
) -> None:
    """Stop at a loss that is NaN or infinite, and leave behind what is needed to find the cause.

    Writes `post_mortem/iteration_N.rank_R.json` (losses, gradient norms, case IDs, min, max and mean of
    each case's crops) and `.pt` (the batch).

    Raises:
        ProstateError: a loss or a gradient norm is not finite (then the weights no longer are). All ranks see
            it at once.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if not bad:
        return
    lossy = any(name.endswith("loss") for name in bad)
    batch, where = entry.batch, folder / "post_mortem"
    where.mkdir(exist_ok=True)
    stem = f"iteration_{entry.iteration}.rank_{rank}"
    index = batch.case_index.tolist()
    cases = [case_names[i] if i < len(case_names) else str(i) for i in index]
    views = batch.global_crops.detach().float().cpu().unflatten(0, (-1, len(index)))
    inputs = {
        case: {"min": _number(v.min()), "max": _number(v.max()), "mean": _number(v.mean())}
        for case, v in zip(cases, views.transpose(0, 1), strict=True)
    }
    told = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
    write_json(where / f"{stem}.json", {"iteration": entry.iteration, "values": told, "cases": inputs})
    tensors = {name: getattr(batch, name).cpu() for name in batch.__dataclass_fields__}
    write_atomically(where / f"{stem}.pt", lambda file: torch.save(tensors, file))
    odd = [case for case, numbers in inputs.items() if any(isinstance(n, str) for n in numbers.values())]
    # All ranks are here, and one of them speaks for all.
    odd = sorted({case for of_rank in of_all_ranks(odd) for case in of_rank})
    files = where / (stem if world_size() == 1 else f"iteration_{entry.iteration}.rank_*")
    cause = (
        f"The crops of {', '.join(odd)} hold NaN: look at those files (prostate-ssl check). " if odd else ""
    )
    raise ProstateError(
        f"NaN detected in {'loss' if lossy else 'gradients'} at iteration {entry.iteration}: "
        f"{', '.join(bad)}. {cause}"
        "Try a lower optim.base_lr, a longer optim.warmup_epochs, and `prostate-ssl check` on the data. "
        f"The batch, its case IDs, losses and gradient norms are in {files}.json and .pt."
    )


def _number(value: torch.Tensor) -> float | str:
    number = value.item()
    return number if math.isfinite(number) else str(number)
