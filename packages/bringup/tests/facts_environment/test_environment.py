"""Environments read as files, compared with what their own Python says."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import pytest

from bringup.binaries.report import BinaryReport, scan_path
from bringup.errors import BringupError
from bringup.facts.environment import EnvironmentFacts, constants, read_environment

_ASK = """
import importlib.metadata, json, platform, sys
rows = [(d.metadata["Name"], d.version) for d in importlib.metadata.distributions()]
print(json.dumps({"rows": rows, "version": platform.python_version(), "path": sys.path}))
"""


@pytest.fixture(scope="module")
def here() -> EnvironmentFacts:
    return read_environment(Path(sys.prefix))


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    return tmp_path / "env"


def _site(root: Path) -> Path:
    return next(root.glob("lib/python3*/site-packages"))


def _dist_info(site: Path, name: str, version: str, metadata: str = "", record: str = "") -> Path:
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}")
    (folder / "RECORD").write_text(record)
    return folder


def test_same_distributions_as_importlib(here: EnvironmentFacts) -> None:
    asked = subprocess.run([sys.executable, "-I", "-c", _ASK], capture_output=True, text=True, check=True)
    told = json.loads(asked.stdout)
    assert here.python.version == told["version"]
    read = {(row.name, row.version) for row in here.distributions}
    assert read == {tuple(row) for row in told["rows"]}
    assert all(folder in told["path"] for folder in [*here.site_packages, *here.paths])


def test_of_this_interpreter(here: EnvironmentFacts) -> None:
    assert here.kind == "venv"
    assert here.python.abi == f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert here.python.platform == f"linux_{platform.machine()}"
    assert Path(here.base or "") == Path(sys.base_prefix)
    assert not here.system_site_packages
    assert here.libraries.glibc == platform.libc_ver()[1]


def test_editable_projects(here: EnvironmentFacts) -> None:
    own = here.distribution("bringup")
    assert own is not None
    assert own.editable == str(Path(__file__).parents[2])
    assert str(Path(__file__).parents[2] / "src") in here.paths


def test_torch_is_read_from_its_version_file(here: EnvironmentFacts) -> None:
    assert here.torch is not None
    installed = here.distribution("torch")
    assert installed is not None
    assert here.torch.version == installed.version
    assert here.torch.cuda is None
    assert here.torch.git is not None
    assert len(here.torch.git) == 40


def test_binaries_have_owners(here: EnvironmentFacts) -> None:
    paths = {row.path for row in here.binaries}
    torch = next(path for path in paths if path.endswith("torch/lib/libtorch_cpu.so"))
    owner = here.owner(torch)
    assert owner is not None
    assert owner.key == "torch"
    assert "torch" in owner.import_names


def test_interpreter_names_its_environment(fresh: Path) -> None:
    for name in ("bin/python", "bin/python3"):
        assert read_environment(fresh / name).root == str(fresh)


def test_system_python() -> None:
    facts = read_environment(Path(sys.base_prefix))
    assert facts.kind in ("system", "conda")
    assert facts.base is None
    assert facts.python.version == platform.python_version()


def test_system_site_packages(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False, symlinks=True, system_site_packages=True)
    facts = read_environment(tmp_path / "env")
    base = read_environment(Path(sys.base_prefix))
    assert facts.system_site_packages
    assert {row.key for row in base.distributions} <= {row.key for row in facts.distributions}


@pytest.mark.parametrize("path", ["nothing", "file", "folder"])
def test_no_environment(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("no Python")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BringupError, match="no-such-environment"):
        read_environment(tmp_path / path)


def test_broken_metadata_is_told_and_the_rest_is_read(fresh: Path) -> None:
    site = _site(fresh)
    _dist_info(site, "whole", "1.0", "Requires-Dist: torch>=2\nRequires-Dist: x ; extra == 'all'\n")
    (site / "empty-2.0+cu117.dist-info").mkdir()
    (site / "bytes-3.0.dist-info").mkdir()
    (site / "bytes-3.0.dist-info" / "METADATA").write_bytes(
        b"Name: bytes\nVersion: 3.0\nSummary: \xff\xfe\0\n"
    )
    (site / "folder-4.0.dist-info" / "METADATA").mkdir(parents=True)
    loop = site / "loop-5.0.dist-info"
    loop.mkdir()
    (loop / "METADATA").symlink_to("METADATA")
    url = _dist_info(site, "url", "6.0")
    (url / "direct_url.json").write_text("[1, 2")
    _dist_info(site, "record", "7.0", record='"unclosed\n' + "x" * 200_000 + ",,\n")
    (site / "~orch-1.0.dist-info").mkdir()
    facts = read_environment(fresh)
    rows = {row.name: row for row in facts.distributions}
    assert rows["whole"].requires == ("torch>=2",)
    assert rows["whole"].trouble is None
    assert rows["empty"].version == "2.0+cu117"
    assert "missing" in (rows["empty"].trouble or "")
    assert rows["bytes"].version == "3.0"
    for name in ("folder", "loop", "url", "record"):
        assert rows[name].trouble, name
    assert facts.leftovers == (str(site / "~orch-1.0.dist-info"),)


def test_folders_that_cannot_be_listed(fresh: Path) -> None:
    site = _site(fresh)
    (site / "itself").symlink_to(".")
    (site / "up").symlink_to("../..")
    (site / "nowhere.so").symlink_to("/nowhere/at/all.so")
    (site / "turn.dist-info").symlink_to("turn.dist-info")
    facts = read_environment(fresh)
    assert facts.binaries == ()
    assert any("turn" in row.location and row.trouble for row in facts.distributions)


def _readable_for_everybody(folder: Path) -> None:
    """pytest's folders are their owner's alone."""
    temporary = Path(tempfile.gettempdir())
    for parent in (folder, *folder.parents):
        if parent != temporary and parent.is_relative_to(temporary):
            parent.chmod(0o755)


def test_unreadable_folder_is_listed(tmp_path: Path) -> None:
    """Read by a user without rights, which root is not."""
    root = tmp_path / "folder"
    (root / "closed").mkdir(parents=True)
    _readable_for_everybody(root)
    (root / "closed").chmod(0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setuid(65534)
        os.write(writer, json.dumps([row.path for row in scan_path(root)]).encode())
        os._exit(0)
    os.close(writer)
    rows = json.loads(os.read(reader, 1 << 16))
    os.waitpid(child, 0)
    (root / "closed").chmod(0o755)
    assert rows == [str(root / "closed")]


def test_egg_info_and_egg_link(fresh: Path, tmp_path: Path) -> None:
    site = _site(fresh)
    project = tmp_path / "project"
    info = project / "old_project.egg-info"
    info.mkdir(parents=True)
    (info / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: old-project\nVersion: 0.9\n")
    (info / "requires.txt").write_text("numpy\nscipy>=1\n\n[dev]\npytest\n")
    (info / "top_level.txt").write_text("old_project\n")
    (site / "old-project.egg-link").write_text(f"{project}\n.")
    (site / "easy-install.pth").write_text(f"{project}\nimport os; os.abort()\n# remark\n/nowhere\n")
    (site / "single-1.2-py3.11.egg-info").write_text("Metadata-Version: 1.0\nName: single\nVersion: 1.2\n")
    facts = read_environment(fresh)
    old = facts.distribution("Old.Project")
    assert old is not None
    assert (old.version, old.requires, old.import_names) == ("0.9", ("numpy", "scipy>=1"), ("old_project",))
    assert old.editable == str(project)
    assert [row.name for row in facts.distributions].count("old-project") == 1
    assert facts.paths == (str(project),)
    single = facts.distribution("single")
    assert single is not None
    assert single.version == "1.2"


def test_setuptools_finder_is_read_as_data(fresh: Path, tmp_path: Path) -> None:
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    finder = f"import os\nMAPPING: dict[str, str] = {{'package': {str(package)!r}}}\nos.abort()\n"
    (_site(fresh) / "__editable___package_0_1_finder.py").write_text(finder)
    assert read_environment(fresh).paths == (str(package),)


def test_windows_environment(tmp_path: Path) -> None:
    (tmp_path / "Scripts").mkdir()
    (tmp_path / "Scripts" / "python.exe").write_bytes(b"MZ")
    (tmp_path / "pyvenv.cfg").write_text("home = C:\\Python311\nversion = 3.11.9\n")
    site = tmp_path / "Lib" / "site-packages"
    site.mkdir(parents=True)
    _dist_info(site, "torch", "2.0.1+cu117")
    facts = read_environment(tmp_path)
    assert facts.python.version == "3.11.9"
    assert facts.python.abi == "cp311"
    assert facts.python.platform == "win_amd64"
    torch = facts.distribution("torch")
    assert torch is not None
    assert torch.version == "2.0.1+cu117"


def test_conda_environment(tmp_path: Path) -> None:
    """conda's layout around the real interpreter's file."""
    library = tmp_path / "lib" / "python3.10"
    (library / "site-packages").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), tmp_path / "bin" / "python3.10")
    (tmp_path / "bin" / "python").symlink_to("python3.10")
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta" / "python-3.10.14-hd12c33a_0_cpython.json").write_text(
        '{"name": "python", "version": "3.10.14"}'
    )
    _dist_info(library / "site-packages", "numpy", "1.26.4")
    facts = read_environment(tmp_path / "bin" / "python")
    assert (facts.kind, facts.python.version, facts.python.abi) == ("conda", "3.10.14", "cp310")
    assert [row.name for row in facts.distributions] == ["numpy"]


def test_version_files_are_read_as_data() -> None:
    text = (
        "from typing import Optional\n__all__ = ['__version__']\n__version__ = '2.11.0+cu130'\n"
        "debug = False\ncuda: Optional[str] = '13.0'\ngit_version = 'ab'\nhip: Optional[str] = None\n"
        "__import__('os').abort()\n"
    )
    read = constants(text)
    assert (read["__version__"], read["cuda"], read["hip"], read["debug"]) == (
        "2.11.0+cu130",
        "13.0",
        None,
        False,
    )
    assert constants("cuda = (") == {}
    assert constants("(" * 100_000) == {}


def test_scanned_extension(fresh: Path) -> None:
    fixture = Path(__file__).parents[1] / "binaries" / "fixtures" / "two-units.so"
    folder = _site(fresh) / "extension"
    folder.mkdir()
    shutil.copy(fixture, folder / "_C.so")
    _dist_info(_site(fresh), "extension", "1.0", record="extension/_C.so,,\nextension/__init__.py,,\n")
    facts = read_environment(fresh)
    assert [type(row) for row in facts.binaries] == [BinaryReport]
    assert facts.binaries[0].machine_code
    owner = facts.owner(facts.binaries[0].path)
    assert owner is not None
    assert (owner.name, owner.import_names) == ("extension", ("extension",))
