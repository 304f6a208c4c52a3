"""The parts of a pack that need no package index: sources, weights, the manifest, what is missing."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from bringup.errors import BringupError
from bringup.plan.sequence import Given, weights_step
from bringup.plan.steps import FetchSource
from bringup.recipes import load
from bringup.report.fetch import print_missing
from bringup.steps.packing.lacking import missing_supplies
from bringup.steps.packing.manifest import (
    Lacking,
    PackManifest,
    check_pack,
    list_files,
    read_manifest,
    write_manifest,
)
from bringup.steps.packing.sources import pack_source
from bringup.steps.packing.weights import pack_weights
from bringup.steps.sources import Supplies, fetch_source
from bringup.steps.weights import fetch_weights

from .conftest import BACKGROUND, CHECKPOINT, World, git


def nobody(line: str) -> None:
    pass


def source_step(world: World) -> FetchSource:
    source = load(str(world.recipe)).source
    assert source is not None
    return FetchSource(
        id="source",
        repository=source.repository,
        commit=source.commit,
        submodules=dict(source.submodules),
        licence=source.licence,
    )


def test_a_source_and_its_submodule_come_back_from_the_pack_alone(world: World, tmp_path: Path) -> None:
    step, pack = source_step(world), tmp_path / "pack"
    archives = pack_source(step, pack / "sources", tmp_path / "log", nobody)
    assert sorted(archives) == sorted((pack / "sources").iterdir())
    shutil.rmtree(world.outer)
    shutil.rmtree(world.inner)
    assert pack_source(step, pack / "sources", tmp_path / "log", nobody) == archives  # nothing is asked
    fetch_source(step, tmp_path / "got", Supplies(True, pack), tmp_path / "log", nobody)
    assert (tmp_path / "got" / "vendored" / "inner" / "lib.py").read_text() == "x = 1\n"
    assert (tmp_path / "got" / "run.py").is_file()


@pytest.mark.parametrize("kind", ["repository", "folder"])
def test_a_copy_that_the_user_has_is_packed(world: World, tmp_path: Path, kind: str) -> None:
    step, pack, local = source_step(world), tmp_path / "pack", tmp_path / "local"
    if kind == "folder":
        fetch_source(step, local, Supplies(), tmp_path / "log", nobody)
    else:  # whose work tree has been edited since: the commit is taken, not the edit
        git(tmp_path, "clone", "-q", "--recurse-submodules", world.outer.as_uri(), "local")
        (local / "run.py").write_text("edited")
    shutil.rmtree(world.outer)
    shutil.rmtree(world.inner)
    pack_source(step, pack / "sources", tmp_path / "log", nobody, local)
    fetch_source(step, tmp_path / "got", Supplies(True, pack), tmp_path / "log", nobody)
    assert (tmp_path / "got" / "vendored" / "inner" / "lib.py").read_text() == "x = 1\n"
    assert "edited" not in (tmp_path / "got" / "run.py").read_text()


def test_a_copy_without_the_commit_is_refused(world: World, tmp_path: Path) -> None:
    step = source_step(world).model_copy(update={"commit": "0" * 40})
    with pytest.raises(BringupError, match="source-failed"):
        pack_source(step, tmp_path / "sources", tmp_path / "log", nobody, world.outer)
    with pytest.raises(BringupError, match="no-source"):
        pack_source(step, tmp_path / "sources", tmp_path / "log", nobody, tmp_path / "nowhere")


def test_an_archive_says_nothing_of_who_made_it(world: World, tmp_path: Path) -> None:
    for archive in pack_source(source_step(world), tmp_path / "sources", tmp_path / "log", nobody):
        with tarfile.open(archive) as tar:
            assert {(row.uid, row.uname, row.mtime) for row in tar} == {(0, "", 0)}


def test_weights_are_brought_once_and_found_again(world: World, tmp_path: Path) -> None:
    recipe, pack = load(str(world.recipe)), tmp_path / "pack"
    partial = pack / "weights" / "u2net" / "u2net.onnx.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(BACKGROUND[:1000])  # broken off before
    for row in recipe.weights:
        pack_weights(weights_step(row, Given()), pack / "weights", nobody)
    asked = len(world.asked)
    for row in recipe.weights:
        pack_weights(weights_step(row, Given()), pack / "weights", nobody)
    # A file without a known hash is taken for whole: it got its name only when it was.
    assert len(world.asked) == asked == 3
    for row in recipe.weights:
        files = fetch_weights(weights_step(row, Given()), Supplies(True, pack), nobody)
        assert files[-1].read_bytes() in (CHECKPOINT, BACKGROUND)


def test_a_damaged_pack_is_named(world: World, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    for row in load(str(world.recipe)).weights:
        pack_weights(weights_step(row, Given()), pack / "weights", nobody)
    manifest = PackManifest(
        recipe="small",
        profile="default",
        platform="linux-x86_64",
        python="3.11.1",
        files=list_files(pack, None),
    )
    write_manifest(pack, manifest)
    assert check_pack(pack, thoroughly=True) == read_manifest(pack) == manifest
    jsonschema.validate(
        json.loads((pack / "pack.json").read_text()),
        json.loads((resources.files("bringup.report") / "schemas" / "pack.json").read_text("utf-8")),
    )
    row = next(file for file in manifest.files if file.path.endswith("u2net.onnx"))
    assert (row.size, row.sha256) == (len(BACKGROUND), hashlib.sha256(BACKGROUND).hexdigest())
    file = pack / row.path
    file.write_bytes(b"x" * row.size)
    check_pack(pack)  # the size alone is right
    with pytest.raises(BringupError) as damaged:
        check_pack(pack, thoroughly=True)
    assert damaged.value.parameters["files"] == row.path
    file.unlink()
    with pytest.raises(BringupError, match="pack-damaged"):
        check_pack(pack)
    (pack / "pack.json").write_text('{"schema": "bringup/other/1"}')
    with pytest.raises(BringupError, match="pack-invalid"):
        check_pack(pack)
    with pytest.raises(BringupError, match="no-pack"):
        check_pack(tmp_path / "nowhere")
    assert Lacking(part="source", error="source-failed", text="…")


def test_all_that_is_missing_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path / "state"))
    missing = missing_supplies(load("triposr"), Given(), None, ())
    stream = io.StringIO()
    words = ("a picture.png", "--output-dir", "output/")
    print_missing("triposr", "--gpu sm_120", missing, None, words, Console(file=stream, width=200))
    shown = stream.getvalue()
    for text in (
        "VAST-AI-Research/TripoSR @ d26e33181947",
        "wheels",
        "stabilityai/TripoSR: config.yaml, model.ckpt",
        "facebook/dino-vitb16: config.json",
        "u2net.onnx",
        "bringup fetch triposr --to triposr-pack --gpu sm_120",
        "bringup up triposr --from triposr-pack --offline -- 'a picture.png' --output-dir output/",
    ):
        assert text in shown, shown


def test_what_is_given_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path / "state"))
    weights = tmp_path / "weights"
    for name in ("config.yaml", "model.ckpt", "u2net.onnx"):
        (weights / "TripoSR").mkdir(parents=True, exist_ok=True)
        (weights / "TripoSR" / name).write_bytes(b"x")
    given = Given(source=tmp_path, weights=weights)
    (tmp_path / "torch-2.13.0-py3-none-any.whl").touch()
    missing = missing_supplies(load("triposr"), given, None, (tmp_path,))
    assert [(row.kind, row.files) for row in missing] == [
        ("weights", ("config.json",)),
        ("weights", ("u2net.onnx",)),
    ]
