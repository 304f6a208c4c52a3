"""Train, validation and test lists: 70/15/15, stratified, a patient in one list only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prostate_ssl.errors import ProstateError
from prostate_ssl.randomness import Draw, host_uniform

SHARES = (0.70, 0.15, 0.15)
LISTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Patients of each list, in the order of the input."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def _patient_draw(name: str, seed: int) -> float:
    return float(host_uniform(seed, int(Draw.SHARE), len(name), *name.encode()))


def list_sizes(count: int, shares: Sequence[float] = SHARES) -> tuple[int, int, int]:
    """Sizes that sum to `count`, by largest remainder.

    Of three or more patients every list gets one whose share is above 0.
    """
    exact = [count * share for share in shares]
    sizes = [int(value) for value in exact]
    rest = sorted(range(3), key=lambda row: (sizes[row] - exact[row], row))
    for row in rest[: count - sum(sizes)]:
        sizes[row] += 1
    if count >= 3:
        for row in range(3):
            if sizes[row] == 0 and shares[row] > 0:
                sizes[row] += 1
                sizes[int(np.argmax(sizes))] -= 1
    return sizes[0], sizes[1], sizes[2]


def split_patients(
    patients: Sequence[str],
    labels: Sequence[str] | None = None,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
) -> Split:
    """Deal patients to three lists.

    Who goes where is decided by a draw keyed by (seed, name): the result does not depend on the input's
    order. With labels each class is spread over the lists in proportion; the sizes of the lists are those
    of `list_sizes` all the same.

    Args:
        patients: names, each once.
        labels: one text each ("" counts as a class of its own), or None.
        seed: another seed, another deal.
        shares: of train, validation, test; they sum to 1.

    Raises:
        ProstateError: no patients, a repeated patient, or shares that do not sum to 1.
    """
    if not patients:
        raise ProstateError("There are no patients to split.")
    if len(set(patients)) != len(patients):
        raise ProstateError("A patient is listed twice; a patient belongs in one list only.")
    if len(shares) != 3 or not abs(sum(shares) - 1.0) <= 1e-6 or min(shares) < 0:
        raise ProstateError(f"Shares {tuple(shares)} should be three that sum to 1.", exit_code=2)
    classes = list(labels) if labels is not None else [""] * len(patients)
    members: dict[str, list[str]] = {kind: [] for kind in sorted(set(classes))}
    for name, kind in sorted(
        zip(patients, classes, strict=True), key=lambda pair: _patient_draw(pair[0], seed)
    ):
        members[kind].append(name)
    chosen: dict[str, int] = {}
    sizes = list_sizes(len(patients), shares)
    for which in (2, 1):
        counts = {kind: len(names) for kind, names in members.items()}
        for kind, take in _spread(sizes[which], counts).items():
            chosen.update(dict.fromkeys(members[kind][:take], which))
            members[kind] = members[kind][take:]
    return Split(*(tuple(name for name in patients if chosen.get(name, 0) == which) for which in range(3)))


def _spread(size: int, counts: dict[str, int]) -> dict[str, int]:
    """How many of each class make up a list of `size`: in proportion, by largest remainder."""
    total = sum(counts.values())
    exact = {kind: size * count / total for kind, count in counts.items()}
    taken = {kind: int(value) for kind, value in exact.items()}
    behind = sorted(counts, key=lambda kind: (taken[kind] - exact[kind], -counts[kind], kind))
    for kind in behind[: size - sum(taken.values())]:
        taken[kind] += 1
    return taken
