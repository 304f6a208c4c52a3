"""A label that is no class number ends a training that uses labels, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.training.trainer import train


@pytest.fixture
def odd(cases: Path, small_overrides: list[str], tmp_path: Path) -> list[str]:
    """Overrides of a short training whose list has words for labels."""
    names = [case.name for case in sorted(cases.iterdir()) if case.is_dir()]
    labels = ["0", "1", "benign", "1"]
    rows = (f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    (tmp_path / "odd.csv").write_text("patient_id,label\n" + "".join(rows))
    dataset = f"ProstateSSL:split=TRAIN:root={cases}:split_csv={tmp_path / 'odd.csv'}"
    run = f"train.output_dir={tmp_path / 'run'}"
    return [*small_overrides, "optim.epochs=1", run, f"train.dataset_path={dataset}"]


def test_a_pre_training_goes_on_and_says_it(odd: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert train(load_config("demo", odd)).completed == 2
    told = capsys.readouterr().out
    assert "odd.csv: the label 'benign' of phantom_0003 is no class number" in told
    assert "it is left out" in told


@pytest.mark.parametrize(
    "uses",
    [
        ["semi_supervised.loss_weight=0.5"],
        [
            "evaluation.eval_period_iterations=1",
            "evaluation.train_dataset_path={odd}",
            "evaluation.val_dataset_path={odd}",
        ],
    ],
    ids=["semi-supervised", "evaluation"],
)
def test_a_training_that_uses_labels_is_refused_before_its_first_step(
    odd: list[str], tmp_path: Path, uses: list[str]
) -> None:
    path = odd[-1].removeprefix("train.dataset_path=")
    with pytest.raises(ProstateError, match="the label 'benign' of phantom_0003 is no class number"):
        train(load_config("demo", [*odd, *(text.format(odd=path) for text in uses)]))
    assert not list((tmp_path / "run").glob("model_*"))
