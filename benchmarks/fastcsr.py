"""FastCSR's networks (DeepPrep's real scripts): checkpoints as nnU-Net v1 writes them, and what they give.

`fastcsr.py subject FOLDER` writes a synthetic conformed subject, `sub-01`: `mri/orig.mgz`, `mri/filled.mgz`.
`fastcsr.py make SOURCE MODELS` writes the three checkpoints `{'plans': …, 'state_dict': …}`, weights random;
the plans are nnU-Net 1.7.1's own, from its cropping, its analysis of a data set and its planner, so that the
NumPy numbers and arrays in them are what it writes. `fastcsr.py run SOURCE MODELS FOLDER OUT` runs DeepPrep's
scripts as processes, all at once, and keeps two level sets and a brain volume; 1 when one fails.
`fastcsr.py compare A B` exits 1 above a relative error of 1e-3: both runs have the same weights, but the
networks run in half precision, which rounds by 2**-11, and cuDNN may choose another algorithm each time.
SOURCE: DeepPrep 04af8f35. `--small` (make, subject): 64³ instead of 256³ voxels and 8 features, for a CPU.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

BOUND = 1e-3
SUBJECT = "sub-01"
CHANNELS = {"lh_model.pth": 2, "rh_model.pth": 2, "brain_finalsurfs_model.pth": 1}
# FreeSurfer's conformed orientation, 1 mm: columns to the left, rows downwards, slices to the front.
CONFORMED = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])

Volume = np.ndarray[Any, Any]


def head(edge: int, seed: int) -> tuple[Volume, Volume]:
    """A head-like T1 image and FreeSurfer's `filled` (white matter left 255, right 127), uint8 cubes."""
    from scipy.ndimage import gaussian_filter, zoom

    random = np.random.default_rng(seed)
    coarse = gaussian_filter(random.normal(size=(32, 32, 32)), 1.5)
    folds = zoom(coarse / coarse.std(), edge / 32, order=1)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, edge, dtype="f4")] * 3, indexing="ij", sparse=True)
    radius = np.sqrt((x / 0.62) ** 2 + (y / 0.72) ** 2 + (z / 0.78) ** 2)
    white = radius + 0.08 * folds < 0.65
    image = np.select([white, radius < 0.8, radius < 0.9, radius < 1.0], [110, 75, 20, 140], 0)
    image = np.where(image > 0, np.clip(image + 6 * random.normal(size=image.shape), 1, 255), 0)
    return image.astype("u1"), np.where(white, np.where(x > 0, 255, 127), 0).astype("u1")


def subject(folder: Path, small: bool) -> None:
    import nibabel

    edge = 64 if small else 256
    affine = CONFORMED.copy()
    affine[:3, 3] = [edge / 2, -edge / 2, edge / 2]
    mri = folder / SUBJECT / "mri"
    mri.mkdir(parents=True)
    for name, volume in zip(("orig", "filled"), head(edge, 0), strict=True):
        nibabel.save(nibabel.MGHImage(volume, affine), mri / f"{name}.mgz")


def plans_of(channels: int, work: Path, small: bool) -> dict[str, Any]:
    """What nnU-Net 1.7.1 plans for a data set of two heads, brain against background."""
    import SimpleITK
    from nnunet.experiment_planning.DatasetAnalyzer import DatasetAnalyzer
    from nnunet.experiment_planning.experiment_planner_baseline_3DUNet_v21 import ExperimentPlanner3D_v21
    from nnunet.preprocessing.cropping import ImageCropper

    work.mkdir()
    for seed in (1, 2):
        image, filled = head(64 if small else 192, seed)
        files = []
        for number, volume in enumerate([*(image, filled)[:channels], (filled > 0).astype("u1")]):
            files.append(str(work / f"case{seed}_{number:04d}.nii.gz"))
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume), files[-1])
        ImageCropper(1, str(work)).load_crop_save(files, f"case{seed}")
    described = {
        "labels": {"0": "background", "1": "brain"},
        "modality": {str(i): "MRI" for i in range(channels)},
    }
    (work / "dataset.json").write_text(json.dumps(described))
    DatasetAnalyzer(str(work), num_processes=1).analyze_dataset()
    planner = ExperimentPlanner3D_v21(str(work), str(work))
    planner.unet_base_num_features = 8 if small else planner.unet_base_num_features
    planner.plan_experiment()
    return dict(planner.plans)


def make(source: Path, models: Path, small: bool) -> None:
    import torch

    sys.path.insert(0, str(source / "deepprep" / "FastCSR"))
    import fastcsr_model_infer

    fastcsr_model_infer.device = torch.device("cpu")  # a name of the script's main part
    models.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        plans = {number: plans_of(number, Path(folder, str(number)), small) for number in (1, 2)}
    for seed, (name, channels) in enumerate(CHANNELS.items()):
        torch.manual_seed(seed)
        predictor = object.__new__(fastcsr_model_infer.LevelsetPredictor)
        predictor.plans = plans[channels]
        weights = predictor.create_network().state_dict()
        torch.save({"plans": predictor.plans, "state_dict": weights}, models / name)
        stage = predictor.plans["plans_per_stage"][0]
        count = sum(tensor.numel() for tensor in weights.values()) / 1e6
        print(
            f"{name}: {count:.1f} million weights, patch {stage['patch_size']}, {stage['num_pool_per_axis']}"
        )


def run(source: Path, models: Path, folder: Path, out: Path) -> None:
    scripts, subjects = out / "FastCSR", out / "subjects"
    shutil.copytree(source / "deepprep" / "FastCSR", scripts)
    (scripts / "model").symlink_to(models.absolute())  # where brain_finalsurfs_model_infer.py looks
    shutil.copytree(folder, subjects)
    given = ["--fastcsr_subjects_dir", str(subjects), "--subj", SUBJECT]
    jobs = [["fastcsr_model_infer.py", "--model-path", str(models), "--hemi", side] for side in ("lh", "rh")]

    def script(words: list[str]) -> subprocess.CompletedProcess[str]:
        began = time.perf_counter()
        command = [sys.executable, str(scripts / words[0]), *given, *words[1:]]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        took = time.perf_counter() - began
        print(f"{words[0]} {' '.join(words[3:])}: {took:.1f} s, rc {ran.returncode}", flush=True)
        return ran

    with ThreadPoolExecutor(3) as pool:  # at once, as DeepPrep's pipeline starts both sides
        for ran in pool.map(script, [*jobs, ["brain_finalsurfs_model_infer.py"]]):
            if ran.returncode:
                sys.exit(ran.stdout[-1000:] + ran.stderr[-3000:])
    mri = subjects / SUBJECT / "mri"
    for name in ("lh_levelset.nii.gz", "rh_levelset.nii.gz", "brain.finalsurfs.mgz"):
        shutil.copy(mri / name, out)


def compare(ours: Path, theirs: Path) -> float:
    import nibabel

    worst = 0.0
    for name in ("lh_levelset.nii.gz", "rh_levelset.nii.gz", "brain.finalsurfs.mgz"):
        first, second = (np.asarray(nibabel.load(place / name).dataobj) for place in (ours, theirs))
        if first.shape != second.shape or not second.std() > 0 or not np.isfinite(first).all():
            sys.exit(f"{name}: not the same kind of volume")
        error = float(np.abs(first - second).max() / np.abs(second).max())
        worst = max(worst, error)
        kind = f"{first.shape}, largest {np.abs(second).max():.3g}, spread {second.std():.3g}"
        print(f"{name:22s} {kind}: {error:.1e}")
    print(f"largest relative error {worst:.1e}, allowed {BOUND:.0e}")
    return worst


def main() -> None:
    verb, *given = (word for word in sys.argv[1:] if word != "--small")
    paths, small = [Path(word) for word in given], "--small" in sys.argv
    if verb == "compare":
        sys.exit(not compare(*paths) <= BOUND)
    elif verb == "run":
        run(*paths)
    else:
        {"make": make, "subject": subject}[verb](*paths, small)  # type: ignore[operator]


if __name__ == "__main__":
    main()
