"""What a run has made is found where the recipe says, drawn, and shown in its report."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from PIL import Image

from bringup.recipes import load
from bringup.report.results import show_results
from bringup.report.run_report import write_run_report
from bringup.steps.results import option_value, results_of
from bringup.steps.run import Run

CUBE = "".join(f"v {x} {y} {z} 1 0 0\n" for x in (0, 1) for y in (0, 1) for z in (0, 1))
CUBE += "f 1 2 4 3\nf 5 7 8 6\nf 1 5 6 2\nf 3 4 8 7\nf 1 3 7 5\nf 2 6 8 4\n"


def run_in(here: Path, *arguments: str) -> Run:
    return Run("arguments", here / "run", here, arguments, places={"here": str(here)}, here=here)


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (("examples/chair.png",), "output"),
        (("examples/chair.png", "--output-dir", "made/"), "made"),
        (("--output-dir=made", "examples/chair.png"), "made"),
        (("--output-dir", "{tmp}/elsewhere"), "elsewhere"),
    ],
)
def test_the_mesh_is_found_where_the_user_wanted_it(
    arguments: tuple[str, ...], folder: str, tmp_path: Path
) -> None:
    made = tmp_path / folder / "0"
    made.mkdir(parents=True)
    (made / "mesh.obj").write_text(CUBE)
    Image.new("RGB", (8, 8), "red").save(made / "input.png")
    other = tmp_path / "output" / "7"
    other.mkdir(parents=True)
    (other / "mesh.obj").write_text(CUBE)
    os.utime(other / "mesh.obj", (1, 1))
    given = [word.replace("{tmp}", str(tmp_path)) for word in arguments]
    found = results_of(load("triposr"), run_in(tmp_path, *given), since=time.time() - 60)
    assert [row.file for row in found] == [made / "mesh.obj", made / "input.png"]


def test_options_as_people_write_them() -> None:
    names = ["-m", "--model_path"]
    assert option_value(["-s", "x"], names, "output/*") == "output/*"
    assert option_value(["-m", "a"], names, "") == "a"
    assert option_value(["--model_path=b", "-m"], names, "") == "b"


def test_the_report_shows_pictures_and_links_the_viewer(tmp_path: Path) -> None:
    (tmp_path / "mesh.obj").write_text(CUBE)
    (tmp_path / "broken.ply").write_bytes(b"ply\nformat")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "input.png")
    shown = show_results([tmp_path / name for name in ("mesh.obj", "input.png", "broken.ply")], tmp_path)
    assert [bool(row.picture) for row in shown] == [True, True, False]
    assert "broken.ply" in shown[2].remark
    page = tmp_path / "report.html"
    write_run_report(
        page, title="T", sections_file=None, facts=[], choices=[], checks=[], timed=[], results=shown
    )
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 2
    assert shown[0].page and f'href="{shown[0].page}"' in text
    assert (tmp_path / shown[0].page).is_file()
