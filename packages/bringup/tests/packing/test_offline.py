"""`bringup fetch`, then `bringup up --from DIR --offline`, with every way to a network shut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from .conftest import BACKGROUND, CHECKPOINT, World

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from bringup.cli.main import main; main()"]


def without_network(home: Path) -> dict[str, str]:
    """Nothing of pip's configuration, a dead proxy, no index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    dead = "http://127.0.0.1:9"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")
    return (
        kept
        | dict.fromkeys(names, dead)
        | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "HF_ENDPOINT": dead,
            "BRINGUP_HOME": str(home),
            "LC_ALL": "C.UTF-8",
        }
    )


def bringup(*words: str, environment: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, env=environment, cwd=directory, timeout=900
    )


def test_a_pack_runs_where_there_is_no_network(world: World, tmp_path: Path) -> None:
    pack, here = tmp_path / "pack", tmp_path / "here"
    here.mkdir()
    online = os.environ | {"LC_ALL": "C.UTF-8"}
    recipe = str(world.recipe)

    # Something that the network does not have now: the rest is brought, and named is what is not.
    background = world.files.pop("/files/u2net.onnx")
    words = ("fetch", recipe, "--to", str(pack), "--cpu", "--json")
    first = bringup(*words, environment=online, directory=here)
    assert first.returncode == 1, first.stderr[-3000:]
    document = json.loads(first.stdout)
    jsonschema.validate(
        document,
        json.loads((resources.files("bringup.report") / "schemas" / "packed.json").read_text("utf-8")),
    )
    lacking = document["pack"]["lacking"]
    assert [row["part"] for row in lacking] == ["weights-background-removal"]
    wheels = {file.name: file.stat().st_mtime_ns for file in (pack / "wheels").iterdir()}
    assert any(name.startswith("antlr4") and name.endswith(".whl") for name in wheels)  # had no wheel
    for name in ("torch-", "portable_kernels-", "bringup-", "hatchling-"):
        assert any(file.startswith(name) for file in wheels), name
    assert not list((pack / "wheels").glob("*.tar.gz"))

    # Again, when it is there: only that is brought.
    world.files["/files/u2net.onnx"] = background
    again = bringup(*words, environment=online, directory=here)
    assert again.returncode == 0, again.stderr[-3000:]
    torch = next(name for name in wheels if name.startswith("torch-"))
    assert (pack / "wheels" / torch).stat().st_mtime_ns == wheels[torch]
    files = {row["path"]: row for row in json.loads(again.stdout)["pack"]["files"]}
    assert files["weights/owner/model/nested/model.ckpt"]["size"] == len(CHECKPOINT)
    assert (pack / "plan.toml").is_file()

    # The other machine.
    shutil.rmtree(world.outer)
    shutil.rmtree(world.inner)
    asked = len(world.asked)
    environment = without_network(tmp_path / "other")
    up = bringup(
        "up", recipe, "--from", str(pack), "--offline", "--cpu", "--", "out.txt",
        environment=environment, directory=here,
    )  # fmt: skip
    assert up.returncode == 0, up.stdout[-3000:] + up.stderr[-3000:]
    assert (here / "out.txt").read_text() == f"{len(CHECKPOINT)} {len(BACKGROUND)}"
    assert "Counting" in up.stdout
    assert len(world.asked) == asked
    checked = bringup("fetch", recipe, "--to", str(pack), "--check", environment=environment, directory=here)
    assert checked.returncode == 0, checked.stderr

    # bringup itself comes from the pack, too.
    venv = tmp_path / "fresh"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--no-index", f"--find-links={pack / 'wheels'}"]
    subprocess.run([*pip, "bringup"], check=True, env=environment)
    version = subprocess.run([str(venv / "bin" / "bringup"), "--help"], capture_output=True, text=True)
    assert version.returncode == 0, version.stderr


def test_without_a_pack_everything_that_is_missing_is_named(world: World, tmp_path: Path) -> None:
    environment = without_network(tmp_path / "other")
    up = bringup(
        "up", str(world.recipe), "--offline", "--cpu", "--", "x", environment=environment, directory=tmp_path
    )
    assert up.returncode == 1
    for text in ("source", "wheels", "config.yaml, nested/model.ckpt", "u2net.onnx", "bringup fetch /"):
        assert text in up.stderr, up.stderr
    assert "Traceback" not in up.stderr
