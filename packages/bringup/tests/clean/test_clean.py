"""`bringup clean` on real folders: what is listed goes, everything else stays, links are never followed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from filelock import FileLock

from bringup.facts.interpreters import find_interpreters
from bringup.plan.resolve import Resolver
from bringup.steps.clean.items import Item, delete, item_of, size_of
from bringup.steps.clean.manual import FINAL, INTERMEDIATE, manual_items
from bringup.steps.clean.own import held, own_items

_SCRIPT = """import torch
data = torch.load("/opt/model/SUGAR/model_files/fsaverage3/lh_NoRigid_904_fsaverage3.model", weights_only=False)
torch.save({"state_dict": data["model"].state_dict()}, "out.pt")
"""


def bringup(*arguments: str, home: Path, folder: Path, answer: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"BRINGUP_HOME": str(home), "LC_ALL": "C.UTF-8", "COLUMNS": "200"}
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "clean", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, input=answer, timeout=120
    )


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def manual(tmp_path: Path) -> Path:
    """A folder as the manual way leaves it, with the user's own files beside."""
    folder = tmp_path / "work"
    files = {
        **{f"Dockerfile.step{number}": "FROM x\n" for number in range(1, 5)},
        "Dockerfile.final": "FROM x\n",
        "Dockerfile": "FROM mine\n",
        "Dockerfile.step5": "FROM mine\n",
        "converted_models/state_dicts/lh_NoRigid_904_fsaverage3.pt": "x",
        "new_models/fsaverage3/lh_NoRigid_904_fsaverage3.model": "x",
        "pytorch3d-main/setup.py": "x",
        "cuda_12.8.0_570.86.10_linux.run": "x" * 5000,
        "convert_models.py": _SCRIPT,
        "rebuild.py": _SCRIPT + "from gatunet_model import GatUNet\n",
        "train.py": "import torch\ntorch.load('mine.pt')\n",
        "notes.txt": "mine\n",
        "models/mine.pt": "x",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


KEPT = {"Dockerfile", "Dockerfile.step5", "train.py", "notes.txt", "models", "models/mine.pt"}


def test_the_manual_ways_leavings_go_and_nothing_else(manual: Path, tmp_path: Path) -> None:
    ran = bringup("--yes", "--json", home=tmp_path / "home", folder=manual)
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    schema = json.loads((resources.files("bringup.report") / "schemas" / "clean.json").read_text("utf-8"))
    jsonschema.validate(document, schema)
    assert tree(manual) == KEPT
    manuals = [row for row in document["items"] if row["origin"] == "manual"]
    assert sorted(row["kind"] for row in manuals) == sorted(
        ["dockerfile"] * 5 + ["folder"] * 3 + ["runfile"] + ["script"] * 2
    )
    assert all(row["deleted"] for row in manuals)
    assert document["freed_bytes"] == document["total_bytes"] > 5000


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_nothing_goes_without_a_yes(arguments: list[str], manual: Path, tmp_path: Path) -> None:
    before = tree(manual)
    ran = bringup(*arguments, home=tmp_path / "home", folder=manual, answer="y\n")
    assert ran.returncode == 0
    assert tree(manual) == before
    assert "Dockerfile.step1" in "".join(ran.stdout.split())  # long paths are folded in their column


def test_folders_are_named_instead_of_the_current_one(manual: Path, tmp_path: Path) -> None:
    assert bringup("--yes", str(manual), home=tmp_path / "home", folder=tmp_path).returncode == 0
    assert tree(manual) == KEPT
    assert bringup(str(tmp_path / "none"), home=tmp_path / "home", folder=tmp_path).returncode == 2


def test_what_convert_wrote_is_not_the_manual_ways(tmp_path: Path) -> None:
    for name in ("converted_models/net.safetensors", "converted_models/net.json", "new_models/net.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert manual_items(tmp_path) == []


def test_state_dicts_of_the_ten_models_alone_are(tmp_path: Path) -> None:
    place = tmp_path / "converted_models" / "state_dicts"
    place.mkdir(parents=True)
    (place / "rh_Rigid_904_fsaverage6.pt").write_text("x")
    assert [item.path for item in manual_items(tmp_path)] == [tmp_path / "converted_models"]


def test_links_are_neither_listed_nor_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "deep").mkdir(parents=True)
    (precious / "deep" / "file").write_text("x" * 9000)
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "Dockerfile.step1").write_text("FROM x\n")
    (folder / "Dockerfile.step2").symlink_to(precious / "deep" / "file")
    (folder / "new_models").symlink_to(precious)
    (folder / "converted_models").mkdir()
    (folder / "converted_models" / "out").symlink_to(precious)
    ran = bringup("--yes", "--json", home=tmp_path / "home", folder=folder)
    rows = {Path(row["path"]).name: row["bytes"] for row in json.loads(ran.stdout)["items"] if row["path"]}
    assert set(rows) == {"Dockerfile.step1", "converted_models"}
    assert rows["converted_models"] < 9000
    assert (precious / "deep" / "file").read_text() == "x" * 9000
    assert {path.name for path in folder.iterdir()} == {"Dockerfile.step2", "new_models"}


def test_what_was_put_in_its_place_stays(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile.step1"
    file.write_text("old")
    item = item_of(file, "dockerfile", "manual")
    assert item is not None
    (tmp_path / "other").write_text("new")
    (tmp_path / "other").replace(file)
    assert delete(item) == "changed"
    assert file.read_text() == "new"


def test_shared_files_are_counted_once_and_only_where_they_free_space(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a").write_bytes(b"x" * 100_000)
    os.link(inside / "a", inside / "b")
    both = size_of(inside)
    assert 100_000 <= both < 200_000
    os.link(inside / "a", tmp_path / "outside")
    assert size_of(inside) < 100_000


def environments(home: Path) -> Path:
    """One environment in use, one superseded with its proof, one half-finished."""
    root = home / "environments" / "work"
    for key, proof in (("used", True), ("older", True), ("broken", False)):
        (root / key / "venv").mkdir(parents=True)
        (root / key / "venv" / "file").write_text("x" * 10_000)
        (root / key / "logs").mkdir()
        (root / key / "logs" / "torch.log").write_text("x" * 5000)
        if proof:
            check = {"id": "import", "ok": True, "subject": "idna", "detail": "3.7"}
            document = {"schema": "bringup/proof/1", "checks": [check]}
            (root / key / "proof.json").write_text(json.dumps(document))
    (root / "current").write_text("used\n")
    return root


def test_environments_in_use_stay(tmp_path: Path) -> None:
    home = tmp_path / "home"
    root = environments(home)
    (home / "runs" / "work-demo" / "logs").mkdir(parents=True)
    (home / "runs" / "work-demo" / "logs" / "train.log").write_text("x")
    (home / "runs" / "work-demo" / "model.pt").write_text("x")
    for name in (
        "cache/resolvers/python-3_11",
        "cache/builds/abc",
        "cache/weights/models--x",
        "toolkits/13.0",
    ):
        (home / name).mkdir(parents=True)
        (home / name / "file").write_text("x")
    (home / "cache" / "builds" / "memory.json").write_text("{}")
    (home / ".settings.123.partial").write_text("x")
    listed = json.loads(bringup("--json", home=home, folder=tmp_path).stdout)["items"]
    kinds = {Path(row["path"]).relative_to(home).as_posix(): row["kind"] for row in listed}
    assert kinds == {
        "environments/work/used/logs": "log",
        "environments/work/older": "superseded",
        "environments/work/broken": "half-finished",
        "runs/work-demo/logs": "log",
        "cache/resolvers/python-3_11": "cache",
        "cache/builds/abc": "cache",
        ".settings.123.partial": "partial",
    }
    assert bringup("--yes", home=home, folder=tmp_path).returncode == 0
    assert (root / "used" / "venv" / "file").exists()
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"used"}
    assert (home / "runs" / "work-demo" / "model.pt").exists()
    assert (home / "toolkits" / "13.0" / "file").exists()
    assert (home / "cache" / "weights" / "models--x" / "file").exists()
    assert (home / "cache" / "builds" / "memory.json").exists()


def test_an_environment_that_is_being_made_stays(tmp_path: Path) -> None:
    home = tmp_path / "home"
    root = environments(home)
    with FileLock(root / ".lock"):
        ran = bringup("--yes", home=home, folder=tmp_path)
    assert ran.returncode == 1
    assert "at work" in ran.stdout
    assert (root / "broken").is_dir()
    assert bringup("--yes", home=home, folder=tmp_path).returncode == 0
    assert not (root / "broken").exists()


@pytest.mark.parametrize("name", ["builds/.abc.work", "builds/abc", "builds/abc.log", "build-environments/e"])
def test_a_build_that_is_under_way_is_left_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path))
    place = tmp_path / "cache" / name
    place.parent.mkdir(parents=True)
    if place.suffix == ".log":
        place.write_text("x")
    else:
        place.mkdir()
    (tmp_path / "cache" / "builds").mkdir(exist_ok=True)
    [item] = own_items()
    with FileLock(tmp_path / "cache" / "builds" / ".abc.lock"), held(item) as free:
        assert not free
    with held(item) as free:
        assert free


def test_a_plan_goes_on_when_its_resolver_was_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path))
    interpreter = next(row for row in find_interpreters() if row.makes_environments and row.minor >= (3, 10))
    resolver = Resolver(interpreter, offline=True)
    resolver.prepare()
    [item] = own_items()
    assert item.path is not None and item.path.parent.name == "resolvers"
    with held(item) as free:
        assert free
        delete(item)
    assert resolver.versions("idna") == [] and item.path.is_dir()


def test_nothing_to_do(tmp_path: Path) -> None:
    ran = bringup(home=tmp_path / "home", folder=tmp_path)
    assert ran.returncode == 0
    assert "Nothing to clean" in ran.stdout
    assert not (tmp_path / "home").exists()


def test_a_state_folder_of_links_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    (precious / "resolvers" / "x").mkdir(parents=True)
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").symlink_to(precious)
    monkeypatch.setenv("BRINGUP_HOME", str(home))
    assert own_items() == []


def test_the_final_image_is_not_on_the_list() -> None:
    assert FINAL not in INTERMEDIATE
    assert len(INTERMEDIATE) == 4


def test_items_can_be_keys() -> None:
    assert len({Item("image", "manual", 1, image=name, engine="docker") for name in INTERMEDIATE}) == 4
