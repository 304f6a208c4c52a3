"""The whole data set on the device: one flat half-precision array, slices gathered by index."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from prostate_ssl.data.order import AXIAL, CORONAL, CaseFacts
from prostate_ssl.data.store import CaseStore

PLANE_COLUMNS = 6
"""Integers that place a slice in the flat array: base, channel, row and column strides, rows, columns."""


@dataclass(frozen=True)
class ResidentCase:
    """Where a case lies in the flat array."""

    offset: int
    facts: CaseFacts
    present: np.ndarray


@dataclass(frozen=True)
class ResidentSet:
    """All usable cases on the device; `cases` has None for the bad ones."""

    flat: torch.Tensor
    cases: tuple[ResidentCase | None, ...]


def place_plane(case: ResidentCase, axis: int, index: int) -> np.ndarray:
    """Base, strides and size of a slice in the flat array; (6,) int64. The slice is that of `cut_plane`."""
    depth, height, width = case.facts.shape
    area = height * width
    channel, top = depth * area, case.offset + (depth - 1) * area
    if axis == AXIAL:
        place = (case.offset + index * area, channel, width, 1, height, width)
    elif axis == CORONAL:
        place = (top + index * width, channel, -area, 1, depth, width)
    else:
        place = (top + index, channel, -area, width, depth, height)
    return np.array(place, dtype=np.int64)


def gather_planes(
    flat: torch.Tensor, places: torch.Tensor, channels: int, room: tuple[int, int]
) -> torch.Tensor:
    """Gather one slice a sample.

    Args:
        flat: (total,) float16.
        places: (B, 6) int64 from `place_plane`.
        channels: C.
        room: (H, W) of the result; slices are smaller or equal.

    Returns:
        (B, C, H, W) float16, zeros beyond each slice.
    """
    base, channel, row, column, rows, columns = (places[:, c, None, None, None] for c in range(PLANE_COLUMNS))
    c = torch.arange(channels, device=flat.device)[None, :, None, None]
    i = torch.arange(room[0], device=flat.device)[None, None, :, None]
    j = torch.arange(room[1], device=flat.device)[None, None, None, :]
    valid = (i < rows) & (j < columns)
    index = torch.where(valid, base + c * channel + i * row + j * column, 0)
    return torch.where(valid, flat[index], 0)


def load_resident(
    store: CaseStore,
    sizes: list[int],
    device: torch.device,
    workers: int,
    progress: Callable[[], None] = lambda: None,
) -> ResidentSet:
    """Load every case and move it to the device, freeing the host's copy.

    Args:
        store: where cases come from; bad ones are dropped there.
        sizes: for each case an upper bound of its array's elements.
        device: where to.
        workers: threads that decode.
        progress: called once a case.
    """
    flat = torch.empty(max(1, sum(sizes)), dtype=torch.float16, device=device)
    cases: list[ResidentCase | None] = []
    offset = 0

    def load(index: int) -> tuple[int, torch.Tensor, CaseFacts, np.ndarray] | None:
        loaded = store.get(index)
        if loaded is None:
            return None
        array = torch.from_numpy(np.ascontiguousarray(loaded.case.whole()))
        store.forget(index)
        return index, array, loaded.facts, loaded.case.present

    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for result in pool.map(load, range(len(sizes))):
            progress()
            if result is None:
                cases.append(None)
                continue
            _, array, facts, present = result
            if facts.gland is None:
                array[-1] = 0
            flat[offset : offset + array.numel()].copy_(array.flatten())
            cases.append(ResidentCase(offset, facts, present))
            offset += array.numel()
    return ResidentSet(flat, tuple(cases))
