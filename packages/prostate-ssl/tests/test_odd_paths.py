"""Every verb takes paths of the command line as they stand there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from prostate_ssl.cli.configuration import configured
from prostate_ssl.cli.main import run
from prostate_ssl.config import load_config
from prostate_ssl.config.dataset_string import dataset_options
from prostate_ssl.data.phantom import PhantomSettings, write_phantoms
from prostate_ssl.files import absolute

SMALL = [
    "train.batch_size_per_gpu=2", "train.img_size=28", "train.num_workers=0", "student.patch_size=7",
    "crops.global_crops_size=28", "crops.local_crops_size=14", "crops.local_crops_number=2",
    "dino.head_n_prototypes=32", "dino.head_hidden_dim=32", "optim.epochs=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    write_phantoms(root, 4, PhantomSettings(size=48, slices=6, seed=3))
    return root


NAME = "~D${y} a=b,c 'ü' \"q\" [red]"


def test_the_folder_of_cases_may_have_any_name(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(phantoms, NAME)
    cfg = configured("demo", [], data=NAME, split_csv=f"{NAME}/labels.csv", output_dir=f"{NAME}/run")
    assert dataset_options(cfg.train.dataset_path)["root"] == str(tmp_path / NAME)
    assert cfg.train.output_dir == str(tmp_path / NAME / "run")
    assert run(["check", NAME, "--split", f"{NAME}/labels.csv"]) == 0


@pytest.mark.slow
def test_every_verb_takes_any_name_of_a_folder(
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(phantoms, name := NAME)
    lists, trained = f"{name} lists", f"{name} run"
    train_csv, labels = f"{lists}/train.csv", f"{name}/labels.csv"
    with_run = ["--run", trained, "--data", name]
    with_lists = [*with_run, "--train-csv", labels, "--val-csv", labels]
    for command in (
        ["check", name],
        ["split", name, "--out", lists],
        ["check", name, "--split", train_csv],
        ["cache", name, "--out", f"{name} cache", "--split", train_csv, "--workers", "1"],
        ["crops", name, "--out", f"{name}.png"],
        ["config", "--suggest", "--data", name],
        ["smoke-test", "--config-file", "demo", "--data", name, *SMALL],
        ["submit", "--config-file", "demo", "--data", name, "--output-dir", trained, "--dry-run", *SMALL],
        [
            "train",
            "--config-file",
            "demo",
            "--data",
            name,
            "--split-csv",
            train_csv,
            "--output-dir",
            trained,
            *SMALL,
        ],
        ["train", "--config-file", f"{trained}/config.yaml", "--output-dir", trained],
        ["extract", *with_run, "--out", f"{name} features", "--split-csv", train_csv],
        ["evaluate", *with_lists],
        ["evaluate", *with_run, "--leave-one-out"],
        ["finetune", "segmentation", *with_lists, "--out", f"{name} fine", "--epochs", "1"],
        ["finetune", "classification", *with_lists, "--out", f"{name} fine", "--epochs", "1"],
        ["export", "--run", trained, "--out", f"{name} export"],
        ["visualize", *with_run, "--out", f"{name} pictures", "--slices", "1"],
        ["report", trained],
        ["best", trained],
    ):
        assert run(command) == 0, (command, capsys.readouterr().err)
    capsys.readouterr()
    options = dataset_options(load_config(Path(trained) / "config.yaml").train.dataset_path)
    assert options["root"] == str(tmp_path / name) and options["split_csv"] == train_csv
    assert all(path.name.startswith(name) for path in tmp_path.iterdir())


def test_a_folder_is_no_dataset_string_because_of_its_name(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(phantoms, "ProstateX")
    assert run(["crops", "ProstateX", "--out", "sheet.png"]) == 0


def test_a_tilde_is_the_home_folder_only_where_nothing_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert absolute("~/data") == tmp_path / "home" / "data"
    assert absolute("~nobody of this name/data") == tmp_path / "~nobody of this name" / "data"
    (tmp_path / "~" / "data").mkdir(parents=True)
    assert absolute("~/data") == tmp_path / "~" / "data"
