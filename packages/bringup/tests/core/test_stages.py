"""Stages in a real (empty) environment: done once, gone on with, refused, killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.recipes import parse
from bringup.recipes.schema import Recipe
from bringup.steps.environments import Slot
from bringup.steps.observer import Silent
from bringup.steps.run import Run, StageFailed, data_run, demo_run, run_stages

RECIPE = """
schema = "bringup/recipe/1"
name = "some"
title = { en = "Some", zh = "某" }
summary = { en = "Some", zh = "某" }
python = ">=3.10"
[torch]
range = ">=2.6"
[[stages]]
name = "first"
title = { en = "First", zh = "一" }
command = ["python", "-c", "open('first', 'a').write('x')"]
[[stages]]
name = "second"
title = { en = "Second", zh = "二" }
command = ["python", "-c", "import sys; open('second', 'a').write(' '.join(sys.argv[1:])); %s", "{data}", "{arguments}"]
"""


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slot:
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path / "state"))
    slot = Slot("some", "key")
    command = [sys.executable, "-m", "venv", "--without-pip", str(slot.target.root)]
    subprocess.run(command, check=True)
    return slot


def recipe(last: str = "pass") -> Recipe:
    return parse(RECIPE % last, "test")


def test_done_once(slot: Slot) -> None:
    run = demo_run(recipe(), ["a=1", "b"], on_gpu=False)
    assert [row.reused for row in run_stages(recipe(), run, slot, Silent())] == [False, False]
    assert [row.reused for row in run_stages(recipe(), run, slot, Silent())] == [True, True]
    assert (run.folder / "first").read_text() == "x"
    assert (run.folder / "second").read_text() == f"{run.data} a=1 b"


def test_goes_on_after_a_failure(slot: Slot) -> None:
    run = demo_run(recipe(), [], on_gpu=False)
    with pytest.raises(BringupError) as failure:
        run_stages(recipe("sys.exit('what went wrong')"), run, slot, Silent())
    assert failure.value.id == "stage-failed"
    assert "what went wrong" in str(failure.value.parameters["text"])
    assert [row.reused for row in run_stages(recipe(), run, slot, Silent())] == [True, False]
    assert (run.folder / "first").read_text() == "x"


def test_a_killed_stage_is_named(slot: Slot) -> None:
    last = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(BringupError, match="stage-killed"):
        run_stages(recipe(last), demo_run(recipe(), [], False), slot, Silent())


def own_command(*words: str) -> tuple[Recipe, Run]:
    """As `up --project DIR -- WORDS` runs them."""
    text = RECIPE.partition("[[stages]]")[0]
    text += '[[stages]]\nname = "run"\ntitle = { en = "Run", zh = "行" }\ncommand = ["{arguments}"]\n'
    made = parse(text, "test")
    return made, demo_run(made, words, on_gpu=False)


def test_a_failure_that_is_known_is_explained(slot: Slot) -> None:
    """What the compiled rasteriser says on a chip that it was not built for."""
    text = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate more than 1EB memory."
    made, run = own_command("python", "-c", f"import sys; print('loss 0.5'); sys.exit({text!r})")
    with pytest.raises(StageFailed) as failure:
        run_stages(made, run, slot, Silent())
    assert [row.id for row in failure.value.explanations] == ["absurd-allocation"]
    assert failure.value.id == "stage-failed" and "1EB" in str(failure.value.parameters["text"])


def test_a_script_needs_no_python_before_it(slot: Slot, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys; open('ran', 'w').write(sys.prefix)")
    made, run = own_command(str(script))
    run_stages(made, run, slot, Silent())
    assert (run.folder / "ran").read_text() == str(slot.target.root)


@pytest.mark.parametrize("name", ["no-such-program", "./nowhere.sh", "/"])
def test_what_cannot_be_started_is_named(name: str, slot: Slot) -> None:
    made, run = own_command(name)
    with pytest.raises(BringupError) as failure:
        run_stages(made, run, slot, Silent())
    assert (failure.value.id, failure.value.parameters["name"]) == ("no-such-command", name)


def test_other_arguments_are_another_run(slot: Slot) -> None:
    run_stages(recipe(), demo_run(recipe(), ["a"], False), slot, Silent())
    results = run_stages(recipe(), demo_run(recipe(), ["b"], False), slot, Silent())
    assert [row.reused for row in results] == [True, False]


def test_fresh_forgets(slot: Slot) -> None:
    run = demo_run(recipe(), [], False)
    run_stages(recipe(), run, slot, Silent())
    assert not any(row.reused for row in run_stages(recipe(), run, slot, Silent(), fresh=True))


def test_changed_data_is_read_again(slot: Slot, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "case").write_text("1")
    run = data_run(recipe(), data, [], False, None)
    run_stages(recipe(), run, slot, Silent())
    (data / "another").write_text("2")
    assert not any(row.reused for row in run_stages(recipe(), run, slot, Silent()))


@pytest.mark.parametrize(("make", "id"), [(False, "no-data"), (True, "empty-data")])
def test_bad_data_is_refused(make: bool, id: str, tmp_path: Path) -> None:
    if make:
        (tmp_path / "data").mkdir()
    with pytest.raises(BringupError) as refused:
        data_run(recipe(), tmp_path / "data", [], False, None)
    assert refused.value.id == id


def test_places_are_filled_in_words_only_once(slot: Slot, tmp_path: Path) -> None:
    run = Run("demo", tmp_path / "run", tmp_path / "{run}", ("{data}",))
    run_stages(recipe(), run, slot, Silent())
    assert (run.folder / "second").read_text() == f"{tmp_path / '{run}'} {{data}}"
