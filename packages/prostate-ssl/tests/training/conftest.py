"""A few small phantom cases and a configuration whose steps take milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig

from prostate_ssl.config import load_config
from prostate_ssl.data.phantom import PhantomSettings, write_phantoms

SMALL = [
    "train.batch_size_per_gpu=2",
    "train.img_size=28",
    "train.saveckp_iterations=3",
    "train.log_every=1",
    "train.num_workers=0",
    "student.patch_size=7",
    "student.drop_path_rate=0.2",
    "crops.global_crops_size=28",
    "crops.local_crops_size=14",
    "crops.local_crops_number=2",
    "dino.head_n_prototypes=32",
    "dino.head_hidden_dim=32",
    "dino.head_bottleneck_dim=16",
    "optim.epochs=6",
]


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantom cases, small."""
    root = tmp_path_factory.mktemp("cases")
    write_phantoms(root, 4, PhantomSettings(size=48, slices=6, seed=3))
    return root


@pytest.fixture(scope="session")
def small_overrides(cases: Path) -> list[str]:
    """Overrides of the demo preset: 2 iterations an epoch, 12 in all."""
    dataset = f"ProstateSSL:split=TRAIN:root={cases}:random_axes=True:random_slices=True"
    return [*SMALL, f"train.dataset_path={dataset}"]


@pytest.fixture
def small_config(small_overrides: list[str], tmp_path: Path) -> DictConfig:
    """A configuration of its own output folder."""
    return load_config("demo", [*small_overrides, f"train.output_dir={tmp_path / 'run'}"])
