"""The feed on a GPU gives the crops that it gives on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from prostate_ssl.data import AugmentationSettings, build_feed, make_dataset

pytestmark = pytest.mark.gpu
SETTINGS = AugmentationSettings(global_crops_size=112, local_crops_size=56, local_crops_number=4)
CASES = [("rc", True), ("color_jittering", True), ("bspline", False), ("histogram", True), ("none", False)]


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Products in fp32 proper: TF32 keeps ten bits, which is another question."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize(("intensity_aug", "foreground"), CASES)
@pytest.mark.parametrize("resident", [True, False])
def test_crops_of_gpu_and_cpu_agree(
    phantoms: Path, intensity_aug: str, foreground: bool, resident: bool
) -> None:
    text = f"ProstateSSL:split=TRAIN:root={phantoms}:random_axes=True:random_slices=True"
    settings = replace(SETTINGS, intensity_aug=intensity_aug, crop_from_tumor_foreground=foreground)
    dataset = make_dataset(dataset_str=text)
    here = build_feed(dataset, settings, 4, 0, "cpu")
    there = build_feed(dataset, settings, 4, 0, "cuda", resident=resident)
    for expected, found in islice(zip(here.batches(), there.batches(), strict=False), 6):
        for exact in ("masks", "present", "case_index"):
            assert torch.equal(getattr(found, exact).cpu(), getattr(expected, exact))
        for crops in ("global_crops", "local_crops"):
            apart = (getattr(found, crops).cpu() - getattr(expected, crops)).abs()
            # Normalised units, about 4.5 from black to white. A pixel at a clamp or at zero may fall on
            # the other side of it.
            assert (apart > 2e-3).float().mean() < 1e-3, (crops, float(apart.max()))


def test_crops_that_wait_for_an_event_are_the_same(phantoms: Path) -> None:
    dataset = make_dataset(dataset_str=f"ProstateSSL:split=TRAIN:root={phantoms}")
    at_once, waiting = (build_feed(dataset, SETTINGS, 4, 0, "cuda") for _ in range(2))
    event = torch.cuda.Event()
    waiting.cut_after(event)
    busy = torch.randn(4096, 4096, device="cuda")
    for expected, found in islice(zip(at_once.batches(), waiting.batches(), strict=False), 6):
        assert torch.equal(found.global_crops, expected.global_crops)
        assert torch.equal(found.local_crops, expected.local_crops)
        for _ in range(20):
            busy = busy @ busy * 1e-3
        event.record()
