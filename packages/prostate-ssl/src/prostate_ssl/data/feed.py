"""Endless batches of crops for training, made ahead of the step that needs them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from prostate_ssl.augment.masks import masked_patch_targets
from prostate_ssl.augment.pipeline import CropAugmenter, Planes
from prostate_ssl.augment.settings import AugmentationSettings
from prostate_ssl.batch import CropBatch
from prostate_ssl.data.dataset import ProstateDataset
from prostate_ssl.data.order import SampleOrder, SliceRules, choose_slice, cut_plane, sample_key
from prostate_ssl.data.store import BadCase, CaseStore
from prostate_ssl.randomness import as_tensor_keys

logger = logging.getLogger("prostate_ssl")

SUBSTITUTE_EPOCH = 1 << 40
"""Added to the epoch of a case that stands in for a dropped one: its draws differ from its own."""


@dataclass(frozen=True)
class HostPlanes:
    """A batch's slices before they travel to the device; the fields are those of `Planes`, plus the cases."""

    planes: Planes
    case_index: torch.Tensor


class Feed:
    """Batches of one rank.

    Attributes:
        waited: seconds that `batches` let its caller wait.
        mode: where the pixels live, in words.
    """

    def __init__(
        self,
        dataset: ProstateDataset,
        store: CaseStore,
        settings: AugmentationSettings,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int,
        world_size: int,
        num_workers: int,
    ) -> None:
        self.waited = 0.0
        self.mode = "host memory, prefetched"
        self._dataset = dataset
        self._store = store
        self._settings = settings
        self._batch = batch_size
        self._seed = seed
        self._device = device
        self._rank, self._world = rank, world_size
        self._workers = num_workers
        self._order = SampleOrder(len(dataset), seed)
        train = dataset.spec.split == "TRAIN"
        self._rules = SliceRules(
            dataset.spec.random_axes and train,
            dataset.spec.random_slices and train,
            dataset.spec.min_roi_voxels,
        )
        self._augment = CropAugmenter(settings)

    def __len__(self) -> int:
        """Cases of the dataset, the bad ones among them."""
        return len(self._dataset)

    @property
    def dropped(self) -> list[BadCase]:
        """Cases that turned out to be unusable so far."""
        return [self._store.bad[index] for index in sorted(self._store.bad)]

    def batches(self, start_step: int = 0) -> Iterator[CropBatch]:
        """Endless batches from a step on; the batch of a step is the same whenever it is asked for."""
        ahead = max(1, min(4, self._workers))
        with ThreadPoolExecutor(max_workers=max(1, self._workers), thread_name_prefix="feed") as pool:
            waiting: deque[Future[HostPlanes]] = deque()
            step = start_step
            try:
                while True:
                    while len(waiting) < ahead:
                        waiting.append(pool.submit(self._host_planes, step + len(waiting)))
                    begun = time.perf_counter()
                    host = waiting.popleft().result()
                    batch = self._finish(host)
                    self.waited += time.perf_counter() - begun
                    step += 1
                    yield batch
            finally:
                for future in waiting:
                    future.cancel()

    def _host_planes(self, step: int) -> HostPlanes:
        first = (step * self._world + self._rank) * self._batch
        chosen = [self._slice_of(slot) for slot in range(first, first + self._batch)]
        cut = [plane for plane, *_ in chosen]
        channels = len(self._dataset.modalities) + 1
        room = (max(plane.shape[1] for plane in cut), max(plane.shape[2] for plane in cut))
        pixels = torch.zeros(self._batch, channels, *room, dtype=torch.float16)
        for row, plane in enumerate(cut):
            pixels[row, :, : plane.shape[1], : plane.shape[2]] = torch.from_numpy(plane)
        targets = masked_patch_targets(self._settings, self._seed, step, self._world * self._batch)
        mine = targets[:, self._rank * self._batch : (self._rank + 1) * self._batch]
        planes = Planes(
            pixels,
            torch.tensor([plane.shape[1:] for plane in cut], dtype=torch.int64),
            torch.from_numpy(np.stack([present for _, present, _, _ in chosen])),
            as_tensor_keys(np.stack([key for *_, key, _ in chosen])),
            torch.from_numpy(mine.copy()),
        )
        return HostPlanes(planes, torch.tensor([index for *_, index in chosen], dtype=torch.int64))

    def _slice_of(self, slot: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """(plane (C, h, w) float16, present (M,), key, case) of a slot; the next good case for a bad one."""
        epoch, index = self._order.at(slot)
        for attempt in range(len(self._dataset)):
            loaded = self._store.get(index)
            if loaded is not None:
                break
            index = self._order.case_at(epoch % SUBSTITUTE_EPOCH, slot % len(self._dataset) + attempt + 1)
        else:
            raise RuntimeError("no usable case")  # the share of bad cases stopped the run before
        if attempt:
            epoch += SUBSTITUTE_EPOCH
        case, facts = loaded
        axis, at = choose_slice(facts, self._rules, self._seed, epoch, index)
        plane = np.ascontiguousarray(cut_plane(case.array, axis, at))
        if facts.gland is None:
            plane[-1] = 0
        return plane, case.present, sample_key(self._seed, epoch, index), index

    def _finish(self, host: HostPlanes) -> CropBatch:
        planes = host.planes
        moved = Planes(
            *(
                getattr(planes, name).to(self._device, non_blocking=True)
                for name in ("pixels", "extent", "present", "keys", "mask_targets")
            )
        )
        with torch.no_grad():
            global_crops, local_crops, masks = self._augment(moved)
        return CropBatch(global_crops, local_crops, moved.present, masks, host.case_index.to(self._device))


def build_feed(
    dataset: ProstateDataset,
    augmentation: AugmentationSettings,
    batch_size: int,
    seed: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 2,
    cache: Path | None = None,
    max_bad_share: float = 0.2,
) -> Feed:
    """Make the feed of one rank.

    Args:
        dataset: the training split.
        augmentation: crops, intensities, masks.
        batch_size: cases per rank and step.
        seed: of every draw.
        device: where batches are wanted.
        rank, world_size: this process among all.
        num_workers: threads that decode and cut slices ahead; 0 means one.
        cache: folder of `prostate-ssl cache`; None decodes the files.
        max_bad_share: more unusable cases than this share of all stop the run.
    """
    store = CaseStore(dataset.case_ids, dataset.prepare, dataset.mask_shown, 4 << 30, max_bad_share)
    return Feed(
        dataset, store, augmentation, batch_size, seed, torch.device(device), rank, world_size, num_workers
    )
