"""PSNR of rendered views against real pictures on disk, as the demo's last stage takes it."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageStat

from bringup.recipes import load
from bringup.steps.demos import render_quality

PROGRAM = Path(render_quality.__file__)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two iterations' renders; the older ones, which do not count, are black."""
    generator = np.random.default_rng(0)
    for iteration, noise in ((7000, 9), (30000, 4)):
        folder = tmp_path / "test" / f"ours_{iteration}"
        for name in ("renders", "gt"):
            (folder / name).mkdir(parents=True)
        for view in range(3):
            truth = generator.integers(20, 230, (40, 50, 3), dtype=np.uint8)
            render = truth + generator.integers(-noise, noise + 1, truth.shape)
            Image.fromarray(truth).save(folder / "gt" / f"{view:05d}.png")
            Image.fromarray(render.astype(np.uint8)).save(folder / "renders" / f"{view:05d}.png")
    return tmp_path


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), *words], capture_output=True, text=True)


def test_the_newest_renders_are_compared(model: Path) -> None:
    folder = model / "test" / "ours_30000"
    values = []
    for name in ("00000.png", "00001.png", "00002.png"):
        difference = ImageChops.difference(
            Image.open(folder / "gt" / name), Image.open(folder / "renders" / name)
        )
        squares = sum(ImageStat.Stat(difference).sum2) / (3 * difference.width * difference.height)
        values.append(20 * math.log10(255) - 10 * math.log10(squares))
    expected = sum(values) / 3
    ran = run(str(model), "--at-least", "30")
    assert ran.returncode == 0, ran.stderr
    (stage,) = (row for row in load("gaussian-splatting").stages if row.name == "quality-demo")
    assert stage.times is not None
    match = re.search(stage.times, ran.stdout)
    assert match and match["name"] == "PSNR of 3 held-out views"
    assert float(match["text"].split()[0]) == pytest.approx(expected, abs=0.01)


def test_worse_than_promised_is_a_failure(model: Path) -> None:
    ran = run(str(model), "--at-least", "60")
    assert ran.returncode == 1 and "is below 60 dB" in ran.stderr


@pytest.mark.parametrize("kind", ["renders", "gt"])
def test_what_is_missing_is_named(model: Path, kind: str) -> None:
    for file in (model / "test" / "ours_30000" / kind).iterdir():
        file.unlink()
    ran = run(str(model))
    assert ran.returncode == 1 and kind in ran.stderr and "Traceback" not in ran.stderr
