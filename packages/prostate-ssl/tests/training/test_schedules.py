"""The schedules equal the published tables at every iteration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prostate_ssl.config import load_config
from prostate_ssl.config.loading import scaled_learning_rate
from prostate_ssl.training.schedules import CosineSchedule, build_schedules


def table(base: float, final: float, total: int, warmup: int, start: float) -> np.ndarray:
    """The closed form of DINOv2's schedule, as an array."""
    rising = np.linspace(start, base, warmup)
    t = np.arange(total - warmup) / max(total - warmup, 1)
    return np.concatenate([rising, final + 0.5 * (base - final) * (1 + np.cos(np.pi * t))])


@pytest.mark.parametrize(
    ("base", "final", "total", "warmup", "start"),
    [
        (3.5e-4, 1e-6, 15000, 1500, 0.0),
        (0.04, 0.4, 700, 0, 0.0),
        (0.992, 1.0, 50, 0, 0.0),
        (0.07, 0.07, 300, 300, 0.04),
        (1.0, 0.0, 10, 1, 0.0),
        (1.0, 0.0, 1, 0, 0.0),
    ],
)
def test_equals_the_table_at_every_iteration(base, final, total, warmup, start):
    schedule = CosineSchedule(base, final, total, warmup, start)
    wanted = table(base, final, total, warmup, start)
    got = np.array([schedule(i) for i in range(total)])
    assert np.allclose(got, wanted, rtol=1e-12, atol=1e-15)
    assert schedule(total) == schedule(total + 1000) == final


def test_the_preset_has_the_documented_schedule():
    cfg = load_config()
    lr = scaled_learning_rate(cfg, world_size=4)
    assert lr == pytest.approx(3.5e-4 * math.sqrt(8 * 4 / 1024))
    schedules = build_schedules(cfg, lr, 50)
    assert schedules.total == 15000
    first, warm, last = schedules.at(0), schedules.at(1500), schedules.at(14999)
    assert first.lr == first.last_layer_lr == 0 and first.teacher_temperature == pytest.approx(0.04)
    assert warm.lr == pytest.approx(lr) and warm.last_layer_lr == warm.lr
    assert schedules.at(49).last_layer_lr == 0 < schedules.at(49).lr
    assert warm.teacher_temperature == 0.07
    assert last.weight_decay == pytest.approx(0.4, abs=1e-6) and last.momentum == pytest.approx(1, abs=1e-6)
