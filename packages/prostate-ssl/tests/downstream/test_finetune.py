"""The downstream tasks learn on phantoms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from prostate_ssl.cli.main import run
from prostate_ssl.config import load_config
from prostate_ssl.data.phantom import PhantomSettings, write_phantoms
from prostate_ssl.downstream.run import finetune as run_finetune
from prostate_ssl.downstream.segmentation import FinetuneSettings, dice_score
from prostate_ssl.errors import ProstateError


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("data")
    write_phantoms(root, 6, PhantomSettings(size=64, slices=6, seed=9))
    ids = sorted(p.name for p in root.iterdir() if p.is_dir())
    (root / "train.csv").write_text(
        "patient_id,label\n" + "".join(f"{n},{k % 2}\n" for k, n in enumerate(ids[:4]))
    )
    (root / "val.csv").write_text(
        "patient_id,label\n" + "".join(f"{n},{k % 2}\n" for k, n in enumerate(ids[4:]))
    )
    folder = tmp_path_factory.mktemp("runs") / "run"
    sizes = ["train.img_size=56", "crops.global_crops_size=56", "crops.local_crops_size=28", "optim.epochs=1"]
    assert (
        run(["train", "--config-file", "demo", "--data", str(root), "--output-dir", str(folder), *sizes]) == 0
    )
    return root, folder


def finetune(setting, out: Path, task: str, *more: str) -> dict:
    root, folder = setting
    lists = ["--train-csv", str(root / "train.csv"), "--val-csv", str(root / "val.csv")]
    assert (
        run(["finetune", task, "--run", str(folder), "--data", str(root), *lists, "--out", str(out), *more])
        == 0
    )
    return json.loads((out / "results.json").read_text())


def test_segmentation_with_a_frozen_backbone_finds_the_gland(setting, tmp_path):
    document = finetune(setting, tmp_path, "segmentation", "--epochs", "20")
    assert document["dice"] > 0.8 and document["frozen"]
    assert document["losses"][-1] < document["losses"][0]
    assert torch.load(tmp_path / "model.pth", weights_only=True)["model"]


def test_full_classification_fits_and_few_shot_uses_fewer_cases(setting, tmp_path):
    full = finetune(setting, tmp_path / "a", "classification", "--epochs", "4", "--full")
    assert not full["frozen"] and full["train_cases"] == 4 and full["losses"][-1] < full["losses"][0]
    few = finetune(setting, tmp_path / "b", "segmentation", "--epochs", "1", "--percentage-labels", "0.5")
    assert few["train_cases"] == 2


@pytest.mark.slow
def test_full_classification_learns_whether_a_gland_is_large(setting, tmp_path):
    """Held-out AUC; 0.95 when this was written (CPU, torch 2.13)."""
    root = tmp_path / "data"
    write_phantoms(root, 60, PhantomSettings(size=64, slices=6, seed=9, gland_spread=0.2))
    volumes = {
        folder.name: int(np.asarray(nibabel.load(folder / "roi_Prostate.nii.gz").dataobj).sum())
        for folder in sorted(root.glob("phantom_*"))
    }
    order = sorted(volumes, key=volumes.__getitem__)
    large, used = set(order[-22:]), {*order[:22], *order[-22:]}
    chosen = [name for name in volumes if name in used]
    for name, part in (("train", chosen[:28]), ("val", chosen[28:])):
        rows = "".join(f"{case},{int(case in large)}\n" for case in part)
        (root / f"{name}.csv").write_text("patient_id,label\n" + rows)
    document = finetune((root, setting[1]), tmp_path / "out", "classification", "--epochs", "25", "--full")
    assert document["metrics"]["auc"] >= 0.8


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_case_that_cannot_be_read_is_left_out_and_named(setting, tmp_path, caplog, task):
    root = tmp_path / "data"
    shutil.copytree(setting[0], root)
    bad = (root / "train.csv").read_text().splitlines()[1].split(",")[0]
    (root / bad / "ax_t2wi.nii.gz").write_bytes(b"")
    document = finetune((root, setting[1]), tmp_path / "out", task, "--epochs", "1")
    assert document["train_cases"] == 3 and caplog.text.count(f"case {bad} left out") == 1


def test_a_rate_that_cannot_be_learned_with_is_said(setting, tmp_path, capsys):
    root, folder = setting
    lists = str(root / "train.csv"), str(root / "val.csv")
    command = ["finetune", "classification", "--run", str(folder), "--data", str(root)]
    command += ["--train-csv", lists[0], "--val-csv", lists[1], "--out", str(tmp_path)]
    for rate in ("nan", "1e38", "-1"):
        assert run([*command, "--lr", rate]) == 2 and "--lr" in capsys.readouterr().err
    settings = FinetuneSettings(epochs=3, lr=1e30)
    with pytest.raises(ProstateError, match=r"NaN detected in loss in epoch .* lower --lr"):
        run_finetune("classification", folder, str(root), lists, tmp_path, settings)
    assert not (tmp_path / "results.json").exists()


def test_judged_cases_of_a_class_that_no_training_case_has_are_said(setting, tmp_path, capsys):
    root, folder = setting
    names = [line.split(",")[0] for line in (root / "val.csv").read_text().splitlines()[1:]]
    path = tmp_path / "other.csv"
    path.write_text(f"patient_id,label\n{names[0]},0\n{names[1]},4\n")
    lists = ["--train-csv", str(root / "train.csv"), "--val-csv", str(path)]
    words = "1 of the judged cases are of a class that no training case has (4): they count as wrong"
    given = ["--run", str(folder), "--data", str(root), *lists]
    assert run(["finetune", "classification", *given, "--out", str(tmp_path), "--epochs", "1"]) == 0
    assert words in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())["note"] == words
    assert run(["evaluate", *given]) == 0
    assert words in capsys.readouterr().out
    assert run(["finetune", "segmentation", *given, "--out", str(tmp_path), "--epochs", "1"]) == 0
    assert "count as wrong" not in capsys.readouterr().out


def test_dice_counts_a_case_over_all_its_slices():
    a = torch.zeros(3, 4, 4, dtype=torch.bool)
    b = a.clone()
    a[0, :2] = b[0, 1:3] = True
    assert dice_score(a, b, torch.tensor([5, 5, 6])) == {5: 0.5, 6: 1.0}


def test_an_unknown_task_is_refused(setting, tmp_path, capsys):
    root, folder = setting
    lists = ["--train-csv", str(root / "train.csv"), "--val-csv", str(root / "val.csv")]
    code = run(
        ["finetune", "poetry", "--run", str(folder), "--data", str(root), *lists, "--out", str(tmp_path)]
    )
    assert code == 2 and "segmentation, classification" in capsys.readouterr().err
    assert load_config("demo")


def test_an_output_that_cannot_be_written_is_said_before_the_training(setting, tmp_path, capsys):
    root, folder = setting
    lists = ["--train-csv", str(root / "train.csv"), "--val-csv", str(root / "val.csv")]
    given = ["finetune", "classification", "--run", str(folder), "--data", str(root), *lists, "--epochs", "1"]
    assert run([*given, "--out", str(root / "val.csv")]) == 1
    told = capsys.readouterr()
    assert "val.csv" in told.err and "epoch" not in told.out
