"""Which checkpoint of a run to take."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.backbone import BEST_TEACHER
from prostate_ssl.training.checkpoint import readable_checkpoints
from prostate_ssl.training.metrics import read_metrics


@dataclass(frozen=True)
class BestCheckpoint:
    """A checkpoint and why it was chosen."""

    path: Path
    reason: str


def best_checkpoint(run: Path) -> BestCheckpoint:
    """The best teacher by validation metric; without evaluation, the checkpoint with the lowest loss.

    The loss of a checkpoint is the mean of the ten records before it.

    Raises:
        ProstateError: the run has no checkpoint.
    """
    kept = run / BEST_TEACHER.parent / "best.json"
    if (run / BEST_TEACHER).is_file() and kept.is_file():
        try:
            best = json.loads(kept.read_text())
            why = f"best validation {best['metric']}, {best['value']:.4f}, at iteration {best['iteration']}"
        except (ValueError, TypeError, KeyError) as error:
            raise ProstateError(
                f"{kept} is damaged. Run `prostate-ssl evaluate` again, or name a checkpoint with --weights."
            ) from error
        return BestCheckpoint(run / BEST_TEACHER, why)
    records = read_metrics(run)
    scored = []
    for path in sorted(readable_checkpoints(run)):
        match = re.match(r"model_(\d+)\.", path.name)
        done = int(match[1]) if match else 0
        losses = [r["total_loss"] for i, r in records.items() if i < done and r.get("total_loss") is not None]
        if losses:
            scored.append((statistics.mean(losses[-10:]), path))
    if not scored:
        raise ProstateError(f"{run} holds no readable checkpoint with metrics: train first.")
    loss, path = min(scored)
    return BestCheckpoint(path, f"lowest loss, {loss:.4f} (no evaluation ran; a downstream probe says more)")
