"""How near the renders of held-out views are to the pictures: PSNR, and whether it is what was promised.

Run by the target's Python (numpy and Pillow are there): `python render_quality.py MODEL --at-least 25`.
`MODEL` is a folder of train.py and render.py: `test/ours_N/{renders,gt}/00000.png`; the newest N counts.

Source: PSNR = -10·log10(mean squared error) for values in [0, 1], of each picture, then the mean over the
pictures, as metrics.py of 3D Gaussian Splatting takes it.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def psnr(render: Path, truth: Path) -> float:
    """Decibels between two pictures of one size; infinite where they are the same.

    Raises:
        ValueError: the sizes differ.
    """
    ours, theirs = (
        np.asarray(Image.open(file).convert("RGB"), dtype=np.float64) / 255 for file in (render, truth)
    )
    if ours.shape != theirs.shape:
        raise ValueError(f"{render} has {ours.shape[1]}x{ours.shape[0]} pixels, {truth} another size")
    error = float(((ours - theirs) ** 2).mean())
    return -10 * math.log10(error) if error else math.inf


def quality(model: Path) -> tuple[float, int]:
    """Mean PSNR over the held-out views of the newest renders, and how many views there are.

    Raises:
        FileNotFoundError: nothing was rendered.
    """
    folders = sorted(model.glob("test/ours_*/renders"), key=lambda path: int(path.parent.name[5:]))
    renders = sorted(folders[-1].glob("*.png")) if folders else []
    if not renders:
        raise FileNotFoundError(f"{model}/test/ours_*/renders: nothing was rendered")
    values = [psnr(file, file.parent.with_name("gt") / file.name) for file in renders]
    return sum(values) / len(values), len(values)


def main() -> None:
    """Command line; exit 1 if the renders are worse than promised."""
    parser = argparse.ArgumentParser(description="PSNR of the held-out views.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--at-least", type=float, default=0.0, metavar="DB")
    given = parser.parse_args()
    try:
        value, views = quality(given.model)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print(f"PSNR of {views} held-out views: {value:.2f} dB (at least {given.at_least:g})")
    if not value >= given.at_least:
        sys.exit(f"PSNR {value:.2f} dB is below {given.at_least:g} dB")


if __name__ == "__main__":
    main()
