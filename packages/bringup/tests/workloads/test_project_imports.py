"""What a project imports is tried in its new environment; what is missing or broken there is named."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bringup.facts.project import read_project
from bringup.report.progress import StepDisplay
from bringup.steps.processes import run_logged
from bringup.steps.project_imports import project_imports
from bringup.steps.target import VirtualEnvironment


@pytest.fixture
def target(tmp_path: Path) -> VirtualEnvironment:
    """An environment with one sound module, one that raises, and one that takes Python down."""
    root = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    (site,) = root.glob("lib/python*/site-packages")
    (site / "sound.py").write_text("value = 1\n")
    (site / "broken.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    (site / "deep.py").write_text("import deeper_still\n")
    (site / "deadly.py").write_text("import os\nos.abort()\n")
    return VirtualEnvironment(root)


def project(tmp_path: Path, text: str) -> Path:
    root = tmp_path / "project"
    (root / "models").mkdir(parents=True)
    (root / "models" / "layers.py").write_text("import os\n")
    (root / "old.py").write_text("print 'Python 2'\n")
    (root / "docs").mkdir()
    (root / "docs" / "conf.py").write_text("import sphinx_theme\n")
    (root / "train.py").write_text(f"import json\nimport models.layers, layers, old\n{text}")
    return root


def test_each_is_tried(target: VirtualEnvironment, tmp_path: Path) -> None:
    """The project's own modules, the standard library and what only its documentation needs are no question."""
    text = "import sound\nimport broken, deep\ntry:\n    import apex_like\nexcept ImportError:\n    pass\n"
    found = project_imports(target, read_project(project(tmp_path, text)))
    assert found.sound == ("sound",)
    assert found.absent == (("apex_like", "train.py:6"),)
    assert found.failing == (
        ("broken", "train.py:4", "ImportError: libGL.so.1: cannot open shared object file"),
        ("deep", "train.py:4", "ModuleNotFoundError: No module named 'deeper_still'"),
    )


def test_a_module_that_takes_python_down(target: VirtualEnvironment, tmp_path: Path) -> None:
    found = project_imports(target, read_project(project(tmp_path, "import deadly, sound\n")))
    assert found.sound == ("sound",)
    assert found.failing == (("deadly", "train.py:3", "SIGABRT"),)


def test_a_project_of_the_standard_library_alone(target: VirtualEnvironment, tmp_path: Path) -> None:
    found = project_imports(target, read_project(project(tmp_path, "")))
    assert (found.sound, found.absent, found.failing) == ((), (), ())


def test_scripts_are_found_the_outer_ones_first(tmp_path: Path) -> None:
    root = project(tmp_path, "")
    (root / "a").mkdir()
    (root / "a" / "tool.py").write_text("if __name__=='__main__':\n    pass\n")
    (root / "main.py").write_text("p = ArgumentParser()\nargs = p.parse_args()\n")
    assert read_project(root).entry_points == ("main.py", "a/tool.py")


def test_pipes_and_loops_in_a_project_are_passed_by(tmp_path: Path) -> None:
    root = project(tmp_path, "import sound\n")
    os.mkfifo(root / "pipe.py")
    (root / "loop.py").symlink_to(root / "loop.py")
    (root / "self").symlink_to(root)
    assert "sound" in read_project(root).imports


def test_the_users_own_output_is_shown(target: VirtualEnvironment, tmp_path: Path) -> None:
    """Every line but progress bars, which are written anew many times a second."""
    text = (
        "print('loss [x] 0.5 ' + 'y' * 150)\nprint('  3%|#   | 1/30 [00:01<00:20]')\nprint('accuracy 91 %')\n"
    )
    (tmp_path / "script.py").write_text(text)
    shown = io.StringIO()
    console = Console(file=shown, width=80)
    with StepDisplay(console, str, every_line=True) as display:
        display.started("run")
        log = tmp_path / "run.log"
        run_logged(
            [str(target.python), "script.py"],
            log,
            directory=tmp_path,
            on_line=lambda line: display.line("run", line),
        )
    assert shown.getvalue().splitlines()[1:] == ["loss [x] 0.5 " + "y" * 150, "accuracy 91 %"]
