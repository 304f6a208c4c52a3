"""Endless batches of crops for training, made ahead of the step that needs them."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.orientations import io_orientation

from prostate_ssl.augment.masks import masked_patch_targets
from prostate_ssl.augment.settings import AugmentationSettings
from prostate_ssl.batch import CropBatch
from prostate_ssl.data.cache import CaseCache
from prostate_ssl.data.dataset import ProstateDataset
from prostate_ssl.data.layout import REFERENCE_SEQUENCE, choose_sequence
from prostate_ssl.data.order import CaseFacts, SampleOrder, SliceRules, choose_slice, sample_key
from prostate_ssl.data.resident import PLANE_COLUMNS, ResidentCase, ResidentSet, load_resident, place_plane
from prostate_ssl.data.stage import Begun, DeviceStage, Order
from prostate_ssl.data.store import AnyCase, BadCase, CaseStore, LoadedCase, remarks_line
from prostate_ssl.host import available_memory

logger = logging.getLogger("prostate_ssl")

SUBSTITUTE_EPOCH = 1 << 40
"""Added to the epoch of a case that stands in for a dropped one: its draws differ from its own."""
RESIDENT_SHARE = 0.3
"""Of the free device memory the resident set may take this share; the rest is the training step's."""
HOST_SHARE = 0.4
"""Of the free host memory decoded cases may take this share."""

Source = LoadedCase | ResidentCase


class Feed:
    """Batches of one rank. Made by `build_feed`.

    Attributes:
        waited: seconds that `batches` let its caller wait.
        mode: where the pixels live, in words; also in the log.
    """

    def __init__(
        self,
        dataset: ProstateDataset,
        store: CaseStore,
        stage: DeviceStage,
        settings: AugmentationSettings,
        mode: str,
        batch_size: int,
        seed: int,
        place: tuple[int, int],
        num_workers: int,
        room: tuple[int, int] | None,
        resident: ResidentSet | None,
        pin: bool,
    ) -> None:
        self.waited = 0.0
        self.mode = mode
        self._dataset = dataset
        self._store = store
        self._stage = stage
        self._settings = settings
        self._batch = batch_size
        self._seed = seed
        self._rank, self._world = place
        self._workers = num_workers
        self._room = room
        self._resident = resident
        self._pin = pin
        self._order = SampleOrder(len(dataset), seed)
        train = dataset.spec.split == "TRAIN"
        self._rules = SliceRules(
            dataset.spec.random_axes and train,
            dataset.spec.random_slices and train,
            dataset.spec.min_roi_voxels,
        )

    def __len__(self) -> int:
        """Cases of the dataset, the bad ones among them."""
        return len(self._dataset)

    @property
    def dropped(self) -> list[BadCase]:
        """Cases that turned out to be unusable so far."""
        return [self._store.bad[index] for index in sorted(self._store.bad)]

    @property
    def fallbacks(self) -> dict[str, tuple[str, ...]]:
        """Case → fallbacks that were taken while reading it."""
        return dict(self._store.notes)

    def cut_after(self, event: torch.cuda.Event | None) -> None:
        """On a GPU, let each batch's crops wait for what the event recorded last before they are asked for.

        So they are cut when the GPU would be idle, instead of beside the step.
        """
        self._stage.after = event

    def batches(self, start_step: int = 0) -> Iterator[CropBatch]:
        """Endless batches from a step on; the batch of a step is the same whenever it is asked for.

        Raises:
            ProstateError: more cases are bad than allowed.
        """
        ahead = max(2, 2 * self._workers)
        with ThreadPoolExecutor(max_workers=max(1, self._workers), thread_name_prefix="feed") as pool:
            waiting: deque[Future[Order | Begun]] = deque()
            asked = start_step
            begun: deque[Begun] = deque()
            done, epoch = 0, -(-len(self) // (self._world * self._batch))
            try:
                while True:
                    since = time.perf_counter()
                    while len(waiting) < ahead:
                        waiting.append(pool.submit(self._ahead, asked))
                        asked += 1
                    # On a GPU one batch is always under way while the caller works on the one before.
                    while len(begun) < (2 if self._pin else 1):
                        ready = waiting.popleft().result()
                        begun.append(self._stage.start(ready) if isinstance(ready, Order) else ready)
                    batch = self._stage.finish(begun.popleft())
                    self.waited += time.perf_counter() - since
                    yield batch
                    done += 1
                    if done == epoch:
                        self._say_fallbacks()
            finally:
                for future in waiting:
                    future.cancel()

    def _say_fallbacks(self) -> None:
        """Once every case has been seen: how many were used otherwise than as they stand, and the first."""
        if self._store.notes:
            logger.info("data: %s", remarks_line(self.fallbacks, len(self)))

    def _ahead(self, step: int) -> Order | Begun:
        """What a worker does for a step: on a GPU the order alone, without one the crops too."""
        order = self.order(step)
        return order if self._pin else self._stage.start(order)

    def order(self, step: int) -> Order:
        """Everything of a step's batch that the host decides: cases, slices, keys, mask targets."""
        first = (step * self._world + self._rank) * self._batch
        chosen = [self._choose(slot) for slot in range(first, first + self._batch)]
        targets = masked_patch_targets(self._settings, self._seed, step, self._world * self._batch)
        targets = targets[:, self._rank * self._batch : (self._rank + 1) * self._batch]
        columns = PLANE_COLUMNS + 2
        modalities = len(self._dataset.modalities)
        table = np.zeros((self._batch, columns + targets.shape[0] + modalities), dtype=np.int64)
        planes: list[np.ndarray] = []
        for row, (source, epoch, index) in enumerate(chosen):
            axis, at = choose_slice(source.facts, self._rules, self._seed, epoch, index)
            if isinstance(source, ResidentCase):
                table[row, :PLANE_COLUMNS] = place_plane(source, axis, at)
                present = source.present
            else:
                plane = source.case.plane(axis, at)
                planes.append(plane)
                table[row, 4:6] = plane.shape[1:]
                present = source.case.present
            table[row, PLANE_COLUMNS] = sample_key(self._seed, epoch, index).view(np.int64)
            table[row, PLANE_COLUMNS + 1] = index
            table[row, -modalities:] = present
        table[:, columns : columns + targets.shape[0]] = targets.T
        pixels = self._pixels(planes, [source.facts for source, *_ in chosen]) if planes else None
        packed = torch.from_numpy(table)
        return Order(packed.pin_memory() if self._pin else packed, pixels)

    def slice_of(self, step: int, row: int) -> tuple[str, int]:
        """Which slice a row of a step's batch shows: axial, coronal or sagittal, and its index."""
        source, epoch, index = self._choose((step * self._world + self._rank) * self._batch + row)
        axis, at = choose_slice(source.facts, self._rules, self._seed, epoch, index)
        return ("axial", "coronal", "sagittal")[axis], at

    def _pixels(self, planes: list[np.ndarray], facts: list[CaseFacts]) -> torch.Tensor:
        room = self._room or (max(p.shape[1] for p in planes), max(p.shape[2] for p in planes))
        pixels = torch.zeros(
            len(planes), planes[0].shape[0], *room, dtype=torch.float16, pin_memory=self._pin
        )
        filled = pixels.numpy()
        for row, plane in enumerate(planes):
            filled[row, :, : plane.shape[1], : plane.shape[2]] = plane
            if facts[row].gland is None:
                filled[row, -1] = 0
        return pixels

    def _choose(self, slot: int) -> tuple[Source, int, int]:
        """(case, epoch of its draws, index) of a slot; for a bad case the next good one in order."""
        epoch, index = self._order.at(slot)
        for attempt in range(len(self._dataset)):
            source = self._resident.cases[index] if self._resident else self._store.get(index)
            if source is not None:
                return source, epoch + (SUBSTITUTE_EPOCH if attempt else 0), index
            index = self._order.case_at(epoch, slot % len(self._dataset) + attempt + 1)
        raise RuntimeError("no usable case")  # the allowed share of bad cases ended the run before this


def build_feed(
    dataset: ProstateDataset,
    augmentation: AugmentationSettings,
    batch_size: int,
    seed: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 2,
    cache: Path | str | None = None,
    max_bad_share: float = 0.2,
    resident: bool | None = None,
    progress: Callable[[], None] = lambda: None,
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
        cache: folder of `prostate-ssl cache` (missing cases are added to it); None decodes the files.
        max_bad_share: more unusable cases than this share of all stop the run.
        resident: keep the whole set on the GPU; None decides by the memory that is free.
        progress: called once a case while a resident set is loaded.

    Raises:
        ProstateError: the cache cannot be written, or too many cases are bad.
    """
    device = torch.device(device)
    spec = dataset.spec
    load: Callable[[int], AnyCase] = dataset.prepare
    if cache is not None:
        cases = CaseCache(Path(cache), dataset.modalities, spec.prefer_computed_dwi)

        def load(index: int) -> AnyCase:
            return cases.ensure(dataset.cases[index])[0]

    budget = int(HOST_SHARE * available_memory())
    store = CaseStore(dataset.case_ids, load, dataset.mask_shown, budget, max_bad_share)
    on_gpu = device.type == "cuda"
    shapes = [_shape_bound(dataset, index) for index in range(len(dataset))] if on_gpu else []
    room = _room(shapes, spec.random_axes and spec.split == "TRAIN") if on_gpu else None
    kept: ResidentSet | None = None
    mode = "from the cache" if cache is not None else "decoded, kept in host memory"
    if on_gpu:
        sizes = [(len(dataset.modalities) + 1) * int(np.prod(shape)) for shape in shapes]
        free = torch.cuda.mem_get_info(device)[0]
        if resident if resident is not None else 2 * sum(sizes) <= RESIDENT_SHARE * free:
            kept = load_resident(store, sizes, device, max(1, num_workers), progress)
            mode = f"resident on the GPU, {2 * sum(sizes) / 2**30:.1f} GiB"
        else:
            mode += ", pinned and copied on a side stream"
    logger.info("data: %d cases, %s", len(dataset), mode)
    stage = DeviceStage(
        augmentation, len(dataset.modalities), device, room or (0, 0), kept.flat if kept else None
    )
    place = (rank, world_size)
    return Feed(
        dataset, store, stage, augmentation, mode, batch_size, seed, place, num_workers, room, kept, on_gpu
    )


def _shape_bound(dataset: ProstateDataset, index: int) -> tuple[int, int, int]:
    """(D, H, W) of a case's T2 image from its header: an upper bound of the prepared array's, or zeros."""
    try:
        path = choose_sequence(dataset.cases[index].folder, REFERENCE_SEQUENCE).path
        if path is None:
            return (0, 0, 0)
        image: Any = nibabel.load(path.absolute())  # nibabel expands a leading ~
        # A header that lies must not make room for its lie; gzip shrinks a thousandfold at most.
        if math.prod(image.shape) > (1032 if path.suffix.lower() == ".gz" else 1) * path.stat().st_size:
            return (0, 0, 0)
        axes = io_orientation(image.affine)[:, 0].astype(int)
        width, height, depth = (int(image.shape[int(np.flatnonzero(axes == axis)[0])]) for axis in range(3))
    except Exception:  # noqa: BLE001 - a damaged file is dropped, with its reason, when it is read
        return (0, 0, 0)
    return depth, height, width


def _room(shapes: list[tuple[int, int, int]], every_axis: bool) -> tuple[int, int]:
    rows = max(shape[1] for shape in shapes)
    columns = max(shape[2] for shape in shapes)
    if every_axis:
        rows = max(rows, *(shape[0] for shape in shapes), 1)
        columns = max(columns, *(shape[1] for shape in shapes), 1)
    return max(1, rows), max(1, columns)
