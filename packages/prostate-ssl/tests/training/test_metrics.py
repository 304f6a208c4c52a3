"""How a training ended decides what its log says about a disk that takes nothing."""

from __future__ import annotations

import pytest

from prostate_ssl.training.metrics import MetricsLog
from prostate_ssl.training.trainer import train


def test_a_log_that_cannot_be_written_is_told_also_inside_an_except_block(small_config, tmp_path):
    (tmp_path / "run" / "curves.png").mkdir(parents=True)
    try:
        raise ValueError("what the caller is dealing with")
    except ValueError:
        with pytest.raises(IsADirectoryError):
            train(small_config)


def test_the_failure_of_a_training_is_told_and_not_that_of_its_log(tmp_path):
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(ValueError, match="the training"), MetricsLog(tmp_path, 0, 1, 1):
        raise ValueError("the training")
