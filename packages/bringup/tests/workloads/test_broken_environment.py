"""An environment whose extension has no code for the GPU: where it came from, and the plan that builds it anew."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import load
from bringup.facts.environment import read_environment
from bringup.plan.adapt import _attempts, make_recipe
from bringup.plan.model import read_plan
from bringup.plan.steps import BuildExtension, Verify
from bringup.plan.wanted import Wanted, from_environment
from bringup.steps.target import VirtualEnvironment
from bringup.steps.verify import _architectures

COMMAND = [sys.executable, "-c", "from bringup.cli.main import main; main()"]
COMPILED = Path(__file__).parents[1] / "binaries" / "fixtures" / "compressed-none.so"  # sm_120 and its PTX
COMMIT = "0123456789abcdef0123456789abcdef01234567"
H200 = ComputeCapability(9, 0)
SETUP = """\
from setuptools import setup
from torch.utils.cpp_extension import CUDAExtension
setup(name="own_ops", ext_modules=[CUDAExtension("own_ops", ["a.cu"])])
"""


def site_of(environment: Path) -> Path:
    return next((environment / "lib").glob("python*")) / "site-packages"


def install(site: Path, name: str, version: str, origin: dict[str, Any] | None, binary: str = "") -> None:
    """What an installer leaves: metadata, a record, where it came from, and perhaps a library for sm_120."""
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if binary:
        shutil.copyfile(COMPILED, site / binary)
    (folder / "RECORD").write_text(f"{binary},,\n" if binary else "")
    if origin:
        (folder / "direct_url.json").write_text(json.dumps(origin))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The environment of a cluster module: a torch with CUDA, as far as its files tell."""
    venv.create(tmp_path / "base", with_pip=False)
    site = site_of(tmp_path / "base")
    install(site, "torch", "2.11.0", None)
    install(site, "cluster_tool", "1.0", {"url": "file:///gone/cluster_tool", "dir_info": {}})
    (site / "torch").mkdir()
    (site / "torch" / "version.py").write_text("__version__ = '2.11.0+cu130'\ncuda = '13.0'\n")
    return tmp_path / "base"


@pytest.fixture
def broken(base: Path, tmp_path: Path) -> Path:
    venv.create(tmp_path / "broken", with_pip=False)
    site = site_of(tmp_path / "broken")
    (site / "base.pth").write_text(f"{site_of(base)}\n")
    source = tmp_path / "own ops"
    source.mkdir()
    (source / "setup.py").write_text(SETUP)
    (source / "a.cu").write_text("__global__ void k() {}\n")
    folder = {"url": source.as_uri(), "dir_info": {}}
    git = {"url": "https://example.org/git_ops.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}
    install(site, "own_ops", "1.0", folder, "own_ops.so")
    install(site, "git_ops", "2.0", git | {"subdirectory": "ops"}, "git_ops.so")
    install(site, "wheel_ops", "3.0", {"url": "file:///tmp/w.whl", "archive_info": {}}, "wheel_ops.so")
    install(site, "index_ops", "4.0", None, "index_ops.so")
    install(site, "plain", "5.0", None)
    return tmp_path / "broken"


def wanted_of(broken: Path, base: Path) -> Wanted:
    shown = read_environment(base, scan=False).site_packages
    return from_environment(read_environment(broken), load(), (H200,), shown)


def test_what_a_broken_environment_was_made_of(broken: Path, base: Path, tmp_path: Path) -> None:
    wanted = wanted_of(broken, base)
    assert {name: (row.repository, row.commit, row.subfolder) for name, row in wanted.origins.items()} == {
        "own-ops": ((tmp_path / "own ops").as_uri(), "0" * 40, ""),
        "git-ops": ("https://example.org/git_ops.git", COMMIT, "ops"),
    }
    assert set(wanted.pins) == {"index-ops", "plain"}
    assert set(wanted.unfit) == {"own-ops", "git-ops", "wheel-ops", "index-ops"}
    assert [(row.subject, row.why.id) for row in wanted.choices] == [("wheel_ops", "link-by-hand")]


def test_what_has_no_code_for_the_gpu_gives_way_first(broken: Path, base: Path) -> None:
    wanted = wanted_of(broken, base)
    recipe = make_recipe(wanted, next(iter(_attempts(wanted))))
    assert [(row.spec, row.loosened) for row in recipe.requirements if row.loosened] == [
        ("index_ops==4.0", "index_ops>=4.0")
    ]
    assert {row.distribution: row.ways for row in recipe.extensions} == {
        "own-ops": ("build",),
        "git-ops": ("build",),
    }


def test_the_proof_reads_back_what_the_plan_imports(broken: Path, base: Path) -> None:
    library = site_of(base) / "torch" / "lib" / "libtorch_cuda.so"
    library.parent.mkdir()
    shutil.copyfile(COMPILED.with_name("many.so"), library)
    step = Verify(id="verify", imports=("own_ops",), gpus=("sm_120", "sm_90"))
    checks = _architectures(VirtualEnvironment(broken), step)
    assert {(row.subject, row.ok) for row in checks if "own_ops" in row.subject} == {
        ("own_ops.so on sm_120", True),
        ("own_ops.so on sm_90", False),
    }
    assert not any("plain" in row.subject for row in checks)
    assert ("git_ops.so on sm_120", True) not in {(row.subject, row.ok) for row in checks}


def test_the_plan_builds_it_from_its_own_source(broken: Path, base: Path, tmp_path: Path) -> None:
    for name in ("git_ops", "wheel_ops", "index_ops", "plain"):
        shutil.rmtree(next(site_of(broken).glob(f"{name}-*")))
    plan_file = tmp_path / "plan.toml"
    words = ["plan", "--env", str(broken), "--overlay", str(base), "--gpu", "H200", "--offline", "--explain"]
    variables = os.environ | {"BRINGUP_HOME": str(tmp_path / "home"), "LC_ALL": "C.UTF-8"}
    ran = subprocess.run(
        [*COMMAND, *words, "-o", str(plan_file)], capture_output=True, text=True, env=variables, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    assert "the installed one: machine code for sm_120, none for sm_90" in " ".join(ran.stdout.split())
    plan = read_plan(plan_file)
    (build,) = (step for step in plan.steps if isinstance(step, BuildExtension))
    assert build.architectures == ("sm_90",) and build.imports == ("own_ops",)
    assert build.source is not None and build.source.local == str(tmp_path / "own ops")
    (tmp_path / "own ops" / "a.cu").write_text("__global__ void other() {}\n")
    ran = subprocess.run(
        [*COMMAND, "apply", str(plan_file), "--dry-run"], capture_output=True, text=True, env=variables
    )
    assert ran.returncode == 1 and "changed" in ran.stderr, ran.stderr


def pure_wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel of one module, as an installer takes it."""
    file = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(f"{name}.py", "")
        made.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{info}/RECORD", "")
    return file


def test_what_came_from_a_file_comes_from_the_index_in_its_release_or_not_at_all(
    base: Path, tmp_path: Path
) -> None:
    environment, index, gone = tmp_path / "given", tmp_path / "index", tmp_path / "gone"
    venv.create(environment, with_pip=False)
    index.mkdir()
    for name, offered in (("offered_too", "1.0"), ("another_release", "9.0")):
        pure_wheel(index, name, offered)
    for name in ("offered_too", "another_release", "nowhere_else"):
        origin = {"url": f"{gone.as_uri()}/{name}-1.0-py3-none-any.whl", "archive_info": {}}
        install(site_of(environment), name, "1.0", origin)
    plan_file = tmp_path / "plan.toml"
    words = ["plan", "--env", str(environment), "--overlay", str(base), "--gpu", "H200", "--offline"]
    variables = os.environ | {
        "BRINGUP_HOME": str(tmp_path / "home"),
        "LC_ALL": "C.UTF-8",
        "PIP_NO_INDEX": "1",
    }
    ran = subprocess.run(
        [*COMMAND, *words, "--find-links", str(index), "-o", str(plan_file)],
        capture_output=True,
        text=True,
        env=variables,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    plan = read_plan(plan_file)
    assert {(row.name, row.version) for row in plan.packages if row.version} >= {("offered-too", "1.0")}
    assert not {"another-release", "nowhere-else"} & {row.name.replace("_", "-") for row in plan.packages}
    said = {
        choice.subject: (choice.why.id, choice.why.parameters["file"])
        for choice in plan.choices
        if choice.chosen == "–"
    }
    assert said == {
        name: ("file-needed", f"{gone.as_uri()}/{name.replace('-', '_')}-1.0-py3-none-any.whl")
        for name in ("another-release", "nowhere-else")
    }
    assert "nowhere_else-1.0-py3-none-any.whl" in ran.stdout.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize(("pin", "code"), [("torch==1.11.0", 0), ("torch<2", 0), ("torch>=9", 1)])
def test_a_projects_pin_gives_way_to_the_torch_that_is_given(
    pin: str, code: int, base: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "requirements.txt").write_text(f"{pin}\n")
    (project / "train.py").write_text("import torch\n")
    plan_file = tmp_path / "plan.toml"
    words = ["plan", "--project", str(project), "--overlay", str(base), "--gpu", "H200", "--offline"]
    variables = os.environ | {"BRINGUP_HOME": str(tmp_path / "home"), "LC_ALL": "C.UTF-8"}
    ran = subprocess.run(
        [*COMMAND, *words, "-o", str(plan_file)], capture_output=True, text=True, env=variables, timeout=300
    )
    assert ran.returncode == code, ran.stderr
    if code:
        assert "has torch 2.11.0" in " ".join(ran.stderr.split()) and not plan_file.exists()
    else:
        choices = read_plan(plan_file).choices
        assert {choice.chosen for choice in choices if choice.subject == "torch"} == {"2.11.0+cu130"}
        said = {str(row.why.parameters["pin"]) for row in choices if row.why.id == "pin-beside-given"}
        assert said == {pin}
