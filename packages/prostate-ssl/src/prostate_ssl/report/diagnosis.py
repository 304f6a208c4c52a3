"""Is it training well? The published signs, read from the metrics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ENOUGH_ITERATIONS = 200
_NEAR_UNIFORM = 0.005


@dataclass(frozen=True)
class Sign:
    """One sign of a healthy training.

    Attributes:
        good: whether it is as it should be.
        question: what was looked at.
        answer: what was seen, and what to do where it is off.
    """

    good: bool
    question: str
    answer: str


def diagnose(
    records: dict[int, dict[str, Any]], prototypes: int, post_mortems: Sequence[int] = ()
) -> list[Sign]:
    """Look at losses, NaN, speed and memory of a run's records (by iteration).

    Args:
        records: what was logged, by iteration.
        prototypes: K of the DINO head.
        post_mortems: iterations at which a NaN stopped the run; they are not among the records.
    """
    signs = (
        _loss(records),
        _tells_apart(records, prototypes),
        _nan(records, post_mortems),
        _speed(records),
        _memory(records),
    )
    return [sign for sign in signs if sign]


def _series(records: dict[int, dict[str, Any]], name: str) -> list[float]:
    return [r[name] for r in records.values() if isinstance(r.get(name), (int, float))]


def _loss(records: dict[int, dict[str, Any]]) -> Sign:
    losses = _series(records, "total_loss")
    tenth = max(1, len(losses) // 10)
    before, after = (
        statistics.mean(losses[:tenth] or [math.nan]),
        statistics.mean(losses[-tenth:] or [math.nan]),
    )
    fell = after < before
    answer = f"from {before:.3f} to {after:.3f}"
    if not fell:
        answer += ": try another optim.base_lr, and look at the crops (prostate-ssl check, visualize)"
    return Sign(fell, "Does the loss fall?", answer)


def _tells_apart(records: dict[int, dict[str, Any]], prototypes: int) -> Sign | None:
    """DINO's loss of a network that gives every crop the same answer is ln K, whatever the teacher says."""
    parts = (_series(records, "dino_local_crops_loss"), _series(records, "dino_global_crops_loss"))
    if not all(parts) or max(records) < _ENOUGH_ITERATIONS:
        return None
    uniform = math.log(prototypes)
    losses = [local + crop for local, crop in zip(*parts, strict=False)]
    late = statistics.mean(losses[-max(1, len(losses) // 10) :])
    apart = abs(late / uniform - 1) > _NEAR_UNIFORM
    answer = f"DINO's terms add up to {late:.3f}; {uniform:.3f} would say that all crops look alike"
    if not apart:
        answer += (
            ": start from DINOv2's weights (student.pretrained_weights), or, from scratch, try "
            "student.layerscale=1.0, a lower teacher.warmup_teacher_temp and teacher_temp (0.02), a milder "
            "crops.intensity_aug, a larger batch"
        )
    return Sign(apart, "Does the teacher tell the cases apart?", answer)


def _nan(records: dict[int, dict[str, Any]], post_mortems: Sequence[int]) -> Sign:
    if not post_mortems:
        return Sign(True, "Any NaN?", "no")
    latest = max(post_mortems)
    overcome = any(i >= latest for i in records)
    answer = f"at iteration {latest}: " + (
        "a later start went on past it" if overcome else "look at post_mortem/, lower optim.base_lr"
    )
    return Sign(overcome, "Any NaN?", answer)


def _speed(records: dict[int, dict[str, Any]]) -> Sign | None:
    times = _series(records, "iteration_seconds")
    if len(times) < 6:
        return None
    half = len(times) // 2
    early, late = statistics.median(times[1:half]), statistics.median(times[half:])
    waits = sum(_series(records, "data_seconds")) / max(sum(times), 1e-9)
    steady = late < 1.3 * early
    answer = (
        f"{1e3 * early:.0f} ms, later {1e3 * late:.0f} ms an iteration; {waits:.0%} of it waiting for data"
    )
    if waits > 0.2:
        answer += ": raise train.num_workers, or fill the cache first (prostate-ssl cache)"
    return Sign(steady and waits <= 0.2, "Is the speed steady?", answer)


def _memory(records: dict[int, dict[str, Any]]) -> Sign | None:
    used = _series(records, "memory_mib")
    if len(used) < 3:
        return None
    growth = used[-1] / max(used[1], 1e-9) - 1
    return Sign(
        growth < 0.05,
        "Is memory flat after the first records?",
        f"{used[1]:.0f} → {used[-1]:.0f} MiB ({growth:+.1%})",
    )
