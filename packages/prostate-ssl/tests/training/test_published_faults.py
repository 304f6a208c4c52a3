"""What the published code gets wrong on its own configuration, each shown to be right here.

The sixth (the loader keeps the GPU waiting) is a number: `benchmarks/train.jsonl`. The seventh (resuming
loses the random state) is `test_trainer.py::test_a_run_that_was_stopped_gives_the_same_losses_and_weights`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from prostate_ssl.config import load_config
from prostate_ssl.data import make_dataset
from prostate_ssl.training.session import Session
from prostate_ssl.training.trainer import prepare, step, train

HERE = Session(torch.device("cpu"), 0, 1)
# The published preset's own settings, in small: the mask guides the crops, modalities are masked apart.
PUBLISHED = [
    "crops.crop_from_tumor_foreground=True", "ibot.mask_per_channel=True", "ibot.separate_head=False",
    "crops.intensity_aug=rc", "train.centering=centering", "optim.clip_grad=0.5", "teacher.momentum_teacher=0.9",
]  # fmt: skip


def test_the_mask_guides_the_crops_and_three_modalities_reach_the_model(small_overrides, tmp_path):
    cfg = load_config("demo", [*small_overrides, *PUBLISHED])
    run = prepare(cfg, HERE, tmp_path, resume=False)
    batch = next(run.data.batches(0))
    assert batch.global_crops.shape[1] == batch.local_crops.shape[1] == 3
    assert run.networks.student_backbone.mri_sequences == ("ax_t2wi", "ax_adc", "ax_dwi")
    assert all(value.isfinite() for value in step(run, 0, batch).values())


def test_one_process_clips_and_moves_its_teacher(small_overrides, tmp_path):
    cfg = load_config("demo", [*small_overrides, *PUBLISHED, f"train.output_dir={tmp_path}"])
    before = prepare(cfg, HERE, tmp_path, resume=False).networks.teacher.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    run = prepare(cfg, HERE, tmp_path, resume=False)
    batches = run.data.batches(0)
    for iteration in range(2):
        norms = step(run, iteration, next(batches))
    assert norms["grad_norm_backbone"] > 0.5  # so there was something to clip
    for part in run.networks.student.values():
        squares = [p.grad.square().sum() for p in part.parameters() if p.grad is not None]
        assert torch.stack(squares).sum().sqrt() <= 0.5 + 1e-4
    after = run.networks.teacher.state_dict()
    moved = [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
    assert len(moved) > len(after) / 2
    student = run.networks.student.state_dict()
    assert not all(torch.equal(after[name], student[name]) for name in moved)


@pytest.mark.slow
def test_nothing_that_is_not_required_is_imported(small_overrides, tmp_path):
    """Training, evaluating and exporting with the published code's surplus packages made to fail."""
    unwanted = ("cuml", "open_clip", "skmultilearn", "peft", "xformers", "fvcore", "cupy", "torchmetrics")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({unwanted!r}));"  # None: importing it is an error
        "from prostate_ssl.cli.main import VERBS, run; import importlib;"
        "[importlib.import_module(f'prostate_ssl.cli.{module}') for module, _ in VERBS.values()];"
        "import prostate_ssl.evaluation.run, prostate_ssl.downstream.run, prostate_ssl.downstream.export;"
        "sys.exit(run(sys.argv[1:]))"
    )
    arguments = ["train", "--config-file", "demo", "--output-dir", str(tmp_path), *small_overrides]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "optim.epochs=1"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def ellipsoid(path: Path, shape: tuple[int, int, int], spacing: tuple[float, ...], centre: float) -> None:
    """A bright ball of 9 mm around (centre, centre, 12 mm), on a grid of its own."""
    affine = np.diag([*spacing, 1.0])
    places = np.indices(shape).reshape(3, -1).T * np.array(spacing)
    inside = np.linalg.norm(places - np.array([centre, centre, 12.0]), axis=1) < 9
    volume = np.random.default_rng(0).uniform(90, 110, shape) + 800 * inside.reshape(shape)
    nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), path)


@pytest.mark.parametrize("centre", [20.0, 30.0])
def test_modalities_on_other_grids_show_the_same_place(centre, small_overrides, tmp_path):
    """T2 at 0.5 mm, diffusion at 2 mm with fewer slices: as scanners write them."""
    for name in ("p1", "p2"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        ellipsoid(folder / "ax_t2wi.nii.gz", (96, 96, 9), (0.5, 0.5, 3.0), centre)
        for other in ("ax_adc", "ax_dwi"):
            ellipsoid(folder / f"{other}.nii.gz", (26, 24, 7), (2.0, 2.0, 4.0), centre)
    dataset = make_dataset(dataset_str=f"ProstateSSL:split=TEST:root={tmp_path / 'data'}")
    image = dataset.sample(0, slice_index=4, size=96).image
    bright = [channel > channel.min() + 0.6 * (channel.max() - channel.min()) for channel in image]
    centres = torch.stack([mask.nonzero().float().mean(0) for mask in bright])
    assert (centres - centres[0]).abs().max() < 3  # pixels of 0.5 mm
    data = f"train.dataset_path=ProstateSSL:split=TRAIN:root={tmp_path / 'data'}:random_axes=True"
    cfg = load_config("demo", [*small_overrides, data, "optim.epochs=1", f"train.output_dir={tmp_path}"])
    assert train(cfg).completed == 1
