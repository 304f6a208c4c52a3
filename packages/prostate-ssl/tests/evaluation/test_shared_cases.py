"""A probe that is judged on cases which it learned from says so."""

from __future__ import annotations

from prostate_ssl.config import load_config
from prostate_ssl.config.dataset_string import with_options
from prostate_ssl.data import make_dataset
from prostate_ssl.data.phantom import PhantomSettings, write_phantoms
from prostate_ssl.downstream.run import finetune
from prostate_ssl.downstream.segmentation import FinetuneSettings
from prostate_ssl.evaluation.backbone import load_backbone
from prostate_ssl.evaluation.run import evaluate_split, print_document
from prostate_ssl.training.trainer import train


def test_cases_in_both_lists_are_named(tmp_path, capsys):
    data = tmp_path / "data"
    write_phantoms(data, 6, PhantomSettings(size=48, slices=4, seed=1))
    cfg = load_config(
        "demo",
        [
            "train.img_size=28", "crops.global_crops_size=28", "crops.local_crops_size=14", "optim.epochs=1",
            "optim.warmup_epochs=0", "train.batch_size_per_gpu=2", f"train.output_dir={tmp_path / 'run'}",
        ],
    )  # fmt: skip
    cfg.train.dataset_path = with_options(cfg.train.dataset_path, root=data, split_csv="none")
    train(cfg)
    rows = (data / "labels.csv").read_text().splitlines()
    for name, part in (("fit", rows[1:5]), ("judge", rows[4:])):
        (data / f"{name}.csv").write_text("\n".join([rows[0], *part]) + "\n")
    text = f"ProstateSupervised:split=TEST:root={data}:mri_sequences=ax_t2wi,ax_adc,ax_dwi"
    fit, judge = (make_dataset(dataset_str=f"{text}:split_csv={name}.csv") for name in ("fit", "judge"))
    document = evaluate_split(load_backbone(tmp_path / "run"), fit, judge, ["accuracy"], tmp_path / "run")
    print_document(document)
    assert f"1 cases are in both lists ({rows[4].split(',')[0]} …)" in capsys.readouterr().out
    lists = str(data / "fit.csv"), str(data / "judge.csv")
    settings = FinetuneSettings(epochs=1)
    tuned = finetune("segmentation", tmp_path / "run", str(data), lists, tmp_path / "out", settings)
    assert str(tuned["note"]).startswith("1 cases are in both lists")
