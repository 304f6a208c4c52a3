"""Sources by git, by archive, from a pack and from a folder; patches by meaning."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.plan.folders import content_of
from bringup.plan.steps import FetchSource, PatchSource
from bringup.steps.patches import holds, patch_source
from bringup.steps.sources import Supplies, archive_address, archive_name, fetch_source

NO_VERSIONS: dict[str, str | None] = {}


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
    ran = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str, str]:
    """A repository with a submodule, one commit behind its newest: (folder, commit, the submodule's commit)."""
    inner = tmp_path / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    (inner / "knn.cu").write_text("float x = FLT_MAX;\n")
    git(inner, "add", ".")
    git(inner, "commit", "-qm", "one")
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    (outer / "train.py").write_text("import torch\nckpt = torch.load(path)\n")
    git(outer, "submodule", "add", "-q", inner.as_uri(), "submodules/knn")
    git(outer, "add", ".")
    git(outer, "commit", "-qm", "one")
    commit = git(outer, "rev-parse", "HEAD")
    (outer / "train.py").write_text("newer\n")
    git(outer, "commit", "-qam", "two")
    git(outer, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(inner, "config", "uploadpack.allowAnySHA1InWant", "true")
    return outer, commit, git(inner, "rev-parse", "HEAD")


def source(repository: str, commit: str, **more: object) -> FetchSource:
    return FetchSource.model_validate({"id": "source", "repository": repository, "commit": commit, **more})


def fetch(step: FetchSource, folder: Path, supplies: Supplies | None = None) -> None:
    fetch_source(step, folder, supplies or Supplies(), folder.parent / "log", lambda line: None)


def test_one_commit_and_its_submodule(repository: tuple[Path, str, str], tmp_path: Path) -> None:
    outer, commit, inner = repository
    step = source(outer.as_uri(), commit, submodules={"submodules/knn": inner})
    fetch(step, tmp_path / "got")
    assert "torch.load" in (tmp_path / "got" / "train.py").read_text()
    assert (tmp_path / "got" / "submodules" / "knn" / "knn.cu").is_file()
    assert not (tmp_path / "got" / ".git").exists()
    fetch(step, tmp_path / "got")  # again over what is there
    assert not list(tmp_path.glob(".got*"))


def test_a_pack_serves_without_network(repository: tuple[Path, str, str], tmp_path: Path) -> None:
    outer, commit, _ = repository
    packed = tmp_path / "pack" / "sources" / archive_name(outer.as_uri(), commit)
    packed.parent.mkdir(parents=True)
    git(outer, "archive", "--prefix=outer-1/", "-o", str(packed), commit)
    shutil.rmtree(outer)
    fetch(source(outer.as_uri(), commit), tmp_path / "got", Supplies(True, tmp_path / "pack"))
    assert (tmp_path / "got" / "train.py").is_file()


def test_what_cannot_be_had_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    step = source((tmp_path / "none").as_uri(), "0" * 40)
    for supplies, wanted in ((Supplies(offline=True), "source-offline"), (Supplies(), "source-failed")):
        with pytest.raises(BringupError) as raised:
            fetch(step, tmp_path / "got", supplies)
        assert raised.value.id == wanted
        assert not (tmp_path / "got").exists()


def test_a_given_folder_that_changed_is_refused(tmp_path: Path) -> None:
    given = tmp_path / "given"
    (given / ".git").mkdir(parents=True)
    (given / "run.py").write_text("1\n")
    content = content_of(given)
    (given / ".git" / "index").write_text("history is no content")
    assert content_of(given) == content
    step = source("https://example.org/x", "0" * 40, local=str(given), content=content)
    fetch(step, tmp_path / "got")
    assert [file.name for file in (tmp_path / "got").iterdir()] == ["run.py"]
    (given / "run.py").write_text("2\n")
    with pytest.raises(BringupError, match="source-changed"):
        fetch(step, tmp_path / "got")


def test_an_archive_that_leads_outside_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "pack" / "sources" / archive_name("https://example.org/x", "0" * 40)
    packed.parent.mkdir(parents=True)
    evil = tmp_path / "evil"
    evil.write_text("x")
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(evil, "x-1/../../outside")
    with pytest.raises(BringupError, match="source-failed"):
        fetch(source("https://example.org/x", "0" * 40), tmp_path / "got", Supplies(True, tmp_path / "pack"))
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize(
    ("repository", "address"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b/archive/c.tar.gz"),
        ("https://gitlab.inria.fr/a/b", "https://gitlab.inria.fr/a/b/-/archive/c/b-c.tar.gz"),
        ("https://example.org/b", None),
    ],
)
def test_archives_of_forges(repository: str, address: str | None) -> None:
    assert archive_address(repository, "c") == address


def patch(**more: object) -> PatchSource:
    row = {
        "id": "p",
        "files": "*.h",
        "fault": r"\buint32_t\b",
        "action": "insert-include",
        "value": "<cstdint>",
    }
    return PatchSource.model_validate({**row, "absent": r"#\s*include\s*<cstdint>", **more})


def test_a_patch_touches_only_the_fault_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "bad.h").write_text("#pragma once\n#include <vector>\nuint32_t x;\n")
    (tmp_path / "good.h").write_text("#include <cstdint>\nuint32_t x;\n")
    (tmp_path / "other.h").write_text("int x;\n")
    assert patch_source(patch(), tmp_path, NO_VERSIONS) == ["bad.h"]
    assert (
        tmp_path / "bad.h"
    ).read_text() == "#pragma once\n#include <cstdint>\n#include <vector>\nuint32_t x;\n"
    assert patch_source(patch(), tmp_path, NO_VERSIONS) == []


def test_conditions_name_versions(tmp_path: Path) -> None:
    versions = {"gcc": "13.2.0", "torch": "2.11.0+cu130"}
    assert holds("gcc>=13", versions) and holds("gcc>=13, torch>=2.6", versions) and holds(None, versions)
    assert not holds("gcc>=14", versions) and not holds("gcc>=13", {"gcc": None})
    with pytest.raises(BringupError, match="patch-condition"):
        holds("compiler is new", versions)
    (tmp_path / "bad.h").write_text("uint32_t x;\n")
    assert patch_source(patch(when="gcc>=14"), tmp_path, versions) == []


def test_torch_load_is_rewritten_by_a_patch(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text("import torch\nx = torch.load('a.pt', map_location='cpu')\n")
    step = patch(files="**/*.py", fault="torch.load", action="rewrite-torch-load", value="")
    assert len(patch_source(step, tmp_path, NO_VERSIONS)) == 1
    assert "weights_only=True" in (tmp_path / "run.py").read_text()
    assert patch_source(step, tmp_path, NO_VERSIONS) == []


def test_a_pattern_that_names_nothing_below_the_source_is_said(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "bad.h").write_text("uint32_t x;\n")
    with pytest.raises(BringupError, match="patch-no-files"):
        patch_source(patch(files="*.cu"), inside, NO_VERSIONS)
    assert (tmp_path / "bad.h").read_text() == "uint32_t x;\n"
