"""Slices and targets for fine-tuning, in memory: sets of labelled cases are small."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from prostate_ssl.data import ProstateDataset
from prostate_ssl.errors import ProstateError, UnreadableVolumeError
from prostate_ssl.evaluation.extract import choose_slices
from prostate_ssl.evaluation.features import model_present

log = logging.getLogger("prostate_ssl")


@dataclass(frozen=True)
class Slices:
    """S slices of some cases.

    Attributes:
        images: (S, M, H, W) float32, normalised.
        present: (S, M) bool.
        masks: (S, H, W) bool gland masks.
        labels: (S,) int64 class of the case, −1 without.
        cases: (S,) int64 position of the case.
    """

    images: torch.Tensor
    present: torch.Tensor
    masks: torch.Tensor
    labels: torch.Tensor
    cases: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def of(self, rows: torch.Tensor) -> Slices:
        """Some of the slices."""
        return Slices(
            self.images[rows], self.present[rows], self.masks[rows], self.labels[rows], self.cases[rows]
        )


def readable(dataset: ProstateDataset, cases: Iterable[int] | None = None) -> Iterator[int]:
    """The cases that can be read, of all or of `cases`; the others are named in the log."""
    for index in range(len(dataset)) if cases is None else cases:
        try:
            dataset.prepared(index)
        except UnreadableVolumeError as error:
            log.warning("case %s left out: %s", dataset.case_ids[index], error.message)
            continue
        yield index


def read_slices(
    dataset: ProstateDataset,
    side: int,
    which: str,
    cases: list[int] | None = None,
    *,
    around_gland: bool = True,
) -> Slices:
    """Read slices of the cases; a case that cannot be read is left out and named in the log.

    Args:
        dataset: labelled or masked cases.
        side: H = W in pixels.
        which: "one" (the evaluation slice), "gland" or "all".
        cases: positions; default all.
        around_gland: windows follow the masks.

    Raises:
        ProstateError: no case.
    """
    samples, where = [], []
    for index in readable(dataset, cases):
        for z in choose_slices(dataset, index, which):
            samples.append(dataset.sample(index, slice_index=z, size=side, around_gland=around_gland))
            where.append(index)
    if not samples:
        raise ProstateError("No case of the list can be read: look at them with `prostate-ssl check`.")
    channels = samples[0].image.shape[0]
    return Slices(
        torch.stack([s.image for s in samples]),
        torch.stack([model_present(s.present, channels) for s in samples]),
        torch.stack([s.mask for s in samples]),
        torch.tensor([s.label for s in samples]),
        torch.tensor(where),
    )


def batches(count: int, size: int, seed: int, epoch: int) -> list[torch.Tensor]:
    """A shuffled division of `count` rows into batches; the same for the same seed and epoch."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
    return list(order.split(size))
