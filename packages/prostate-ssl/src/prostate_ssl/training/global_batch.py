"""The same total batch on another number of ranks, so that a resumed run sees the same samples."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from prostate_ssl.errors import ProstateError
from prostate_ssl.training.checkpoint import checkpoint_files, read_checkpoint
from prostate_ssl.training.session import Session

log = logging.getLogger("prostate_ssl")


def saved_batch(folder: Path) -> int | None:
    """Total batch of the checkpoint that a run would go on from; None: nothing to go on from."""
    return next((total for path in checkpoint_files(folder) if (total := _batch_of(path))), None)


def _batch_of(path: Path) -> int | None:
    try:
        return read_checkpoint(path).get("global_batch")
    except ProstateError:
        return None  # the resumption itself says which file it passes over


def keep_global_batch(cfg: DictConfig, session: Session, folder: Path) -> None:
    """Share the total batch that a run was trained with among the ranks of this start.

    `train.batch_size_per_gpu` is adjusted: the total batch belongs to the run, not to the machine.

    Raises:
        ProstateError: the ranks cannot share it evenly.
    """
    total, ranks, asked = saved_batch(folder), session.world_size, cfg.train.batch_size_per_gpu
    if total in (None, asked * ranks):
        return
    if total % ranks:
        fitting = ", ".join(str(n) for n in range(1, total + 1) if total % n == 0)
        raise ProstateError(
            f"The run was trained with a total batch of {total}, which {ranks} processes cannot share "
            f"evenly. Start as many as divide it ({fitting}), or use another --output-dir."
        )
    cfg.train.batch_size_per_gpu = total // ranks
    if session.is_main:
        log.info(
            "Going on with the run's total batch of %d: %d cases in each of %d processes, not "
            "train.batch_size_per_gpu=%d. For another total batch use another --output-dir.",
            total, total // ranks, ranks, asked,
        )  # fmt: skip
