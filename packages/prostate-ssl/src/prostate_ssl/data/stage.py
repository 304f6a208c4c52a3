"""The device's side of the feed: planes to crops, on a side stream and as a CUDA graph on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prostate_ssl.augment.pipeline import CropAugmenter
from prostate_ssl.augment.planes import Planes
from prostate_ssl.augment.settings import AugmentationSettings
from prostate_ssl.batch import CropBatch
from prostate_ssl.data.resident import PLANE_COLUMNS, gather_planes

Crops = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Order:
    """One batch as the host asks for it.

    Attributes:
        table: (B, 6 + 2 + G + M) int64: place (resident; else only rows and columns count), key, case, mask
            targets, present flags. One small copy brings all of it to the device.
        pixels: (B, C, H, W) float16 where slices come from the host; None where they are resident.
    """

    table: torch.Tensor
    pixels: torch.Tensor | None


@dataclass(frozen=True)
class Begun:
    """A batch under way.

    Attributes:
        batch: its tensors; what is in them may not be there yet.
        ready: on a GPU, recorded when it is.
    """

    batch: CropBatch
    ready: torch.cuda.Event | None = None


class DeviceStage:
    """Turns orders into batches of crops.

    Args:
        settings: of the augmentation.
        modalities: M.
        device: where crops are made.
        room: (H, W) that holds every slice of the data set.
        flat: the resident set's array, or None where pixels come with each order.
        graphs: capture the work as a CUDA graph (the GPU's default); one replay then costs one launch.

    Attributes:
        after: on a GPU, what cutting each batch waits for once its slices are there; None: nothing.
    """

    def __init__(
        self,
        settings: AugmentationSettings,
        modalities: int,
        device: torch.device,
        room: tuple[int, int],
        flat: torch.Tensor | None = None,
        graphs: bool = True,
    ) -> None:
        self._augment = CropAugmenter(settings)
        self._kinds = settings.global_crops_number
        self._modalities = modalities
        self._device = device
        self._room = room
        self._flat = flat
        self._on_gpu = device.type == "cuda"
        self._graphs = graphs and self._on_gpu
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None
        self.after: torch.cuda.Event | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static: tuple[torch.Tensor, torch.Tensor | None] | None = None
        self._crops: Crops | None = None

    def start(self, order: Order) -> Begun:
        """Begin a batch; on a GPU the call returns before the work is done, see `finish`."""
        if self._stream is None:
            return Begun(self._pack(self._work(order.table, order.pixels), order.table))
        with torch.cuda.stream(self._stream):
            table = order.table.to(self._device, non_blocking=True)
            if self._graphs:
                crops = self._replay(table, order.pixels)
            else:
                pixels = None if order.pixels is None else order.pixels.to(self._device, non_blocking=True)
                self._wait()
                crops = self._work(table, pixels)
            batch, ready = self._pack(crops, table), torch.cuda.Event()
            ready.record()
        return Begun(batch, ready)

    def finish(self, begun: Begun) -> CropBatch:
        """Make the caller's stream wait for a batch that `start` began, without blocking the host."""
        if begun.ready is not None:
            here = torch.cuda.current_stream(self._device)
            # For this batch alone: the next one, begun already, goes on beside the step.
            here.wait_event(begun.ready)
            for tensor in vars(begun.batch).values():
                tensor.record_stream(here)
        return begun.batch

    def _wait(self) -> None:
        if self.after is not None:
            torch.cuda.current_stream(self._device).wait_event(self.after)

    @torch.no_grad()
    def _work(self, table: torch.Tensor, pixels: torch.Tensor | None) -> Crops:
        places = table[:, :PLANE_COLUMNS]
        if self._flat is not None:
            pixels = gather_planes(self._flat, places, self._modalities + 1, self._room)
        assert pixels is not None
        return self._augment(
            Planes(
                pixels,
                places[:, 4:6],
                table[:, -self._modalities :] > 0,
                table[:, PLANE_COLUMNS],
                table[:, PLANE_COLUMNS + 2 : PLANE_COLUMNS + 2 + self._kinds].t(),
            )
        )

    def _pack(self, crops: Crops, table: torch.Tensor) -> CropBatch:
        present = table[:, -self._modalities :] > 0
        return CropBatch(crops[0], crops[1], present, crops[2], table[:, PLANE_COLUMNS + 1].clone())

    def _replay(self, table: torch.Tensor, pixels: torch.Tensor | None) -> Crops:
        if self._graph is None:
            self._capture(table, pixels)
        assert self._graph is not None and self._static is not None and self._crops is not None
        self._static[0].copy_(table)
        if pixels is not None and self._static[1] is not None:
            self._static[1].copy_(pixels, non_blocking=True)
        self._wait()
        self._graph.replay()
        # The graph's own outputs are overwritten by the next replay.
        first, second, masks = (crops.clone() for crops in self._crops)
        return first, second, masks

    def _capture(self, table: torch.Tensor, pixels: torch.Tensor | None) -> None:
        still = (table.clone(), None if pixels is None else pixels.to(self._device))
        for _ in range(2):  # lets libraries choose kernels and allocate work space before the capture
            self._work(*still)
        torch.cuda.current_stream(self._device).synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._crops = self._work(*still)
        self._graph, self._static = graph, still
