"""The signs of a healthy training, read from records."""

from __future__ import annotations

import math
from typing import Any

import pytest

from prostate_ssl.cli.main import run
from prostate_ssl.data.phantom import PhantomSettings, write_phantoms
from prostate_ssl.report.diagnosis import diagnose

QUESTION = "Does the teacher tell the cases apart?"


def records(local: float, crop: float, iterations: int = 400) -> dict[int, dict[str, Any]]:
    return {
        i: {"total_loss": 9.0 - i / 1e3, "dino_local_crops_loss": local, "dino_global_crops_loss": crop}
        for i in range(0, iterations, 10)
    }


@pytest.mark.parametrize(
    ("local", "crop", "good"),
    # Measured on an H200: stuck (1,024 prototypes), and learning (256 prototypes scaled to 1,024).
    [(5.941, 0.990, False), (5.943, 0.991, False), (3.083, 0.892, True), (4.312, 1.107, True)],
)
def test_a_teacher_that_answers_all_crops_alike_is_named(local: float, crop: float, good: bool) -> None:
    (sign,) = [sign for sign in diagnose(records(local, crop), 1024) if sign.question == QUESTION]
    assert sign.good is good
    assert f"{math.log(1024):.3f}" in sign.answer and ("layerscale=1.0" in sign.answer) is not good


def test_it_is_not_asked_early_or_without_dino() -> None:
    few = records(5.941, 0.990, iterations=100)
    without = {i: {"total_loss": 3.0} for i in range(0, 400, 10)}
    assert not [sign for log in (few, without) for sign in diagnose(log, 1024) if sign.question == QUESTION]


def test_a_nan_that_ended_the_run_is_told_though_no_record_has_it(tmp_path) -> None:
    overrides = ["optim.base_lr=1e30", "optim.epochs=6", "train.img_size=28", "student.patch_size=7",
                 "crops.global_crops_size=28", "crops.local_crops_size=14", "train.log_every=1"]  # fmt: skip
    write_phantoms(tmp_path / "data", 4, PhantomSettings(size=48, slices=6, seed=3))
    folder = tmp_path / "run"
    arguments = ["train", "--config-file", "demo", "--data", str(tmp_path / "data"), "--output-dir"]
    assert run([*arguments, str(folder), *overrides]) == 1
    (stopped,) = [path.name.split(".")[0] for path in (folder / "post_mortem").glob("*.json")]
    assert run(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    at = int(stopped.removeprefix("iteration_"))
    assert f"at iteration {at}: look at post_mortem/" in page and f"{at} of 6 iterations were done on" in page
    assert [sign.good for sign in diagnose({i: {"total_loss": 1.0} for i in range(9)}, 8, [3])][1]
