"""The page in a real browser with software GL. Collected only where there is a Chromium to run it in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy
import pytest
from PIL import Image

from bringup.cli.main import run

from .shapes import ball, write_obj

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--window-size=600,400",
    "--virtual-time-budget=20000",
]

if BROWSER:

    @pytest.mark.slow
    def test_the_mesh_is_drawn(tmp_path: Path) -> None:
        assert BROWSER is not None
        write_obj(tmp_path / "mesh.obj", ball(24))
        assert run(["view", str(tmp_path / "mesh.obj"), "-o", str(tmp_path / "page.html")]) == 0
        shot = tmp_path / "shot.png"
        command = [BROWSER, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}"]
        subprocess.run([*command, (tmp_path / "page.html").as_uri()], timeout=180, capture_output=True)
        image = numpy.asarray(Image.open(shot).convert("RGB")).astype(int)
        middle = image[100:300, 200:400]
        # Colours of its eight octants, lit, which neither the words nor the still picture's place have.
        yellow = middle[..., :2].min(2) - middle[..., 2]
        cyan = middle[..., 1:].min(2) - middle[..., 0]
        assert (numpy.abs(middle - 250).max(axis=2) > 20).mean() > 0.5
        assert (yellow > 40).mean() > 0.1
        assert (cyan > 40).any()
        # The outline is smooth and the still picture hidden: beside the mesh there is nothing.
        assert (numpy.abs(image[100:300, :120] - 250) < 6).all()
