"""Shims in real environments: their own pip installs, checks and removes; nothing of theirs is simulated."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import portable_kernels
from portable_kernels.errors import ShimError
from portable_kernels.shims import Environment, all_shims, named_shims
from portable_kernels.shims.wheel import build_wheel


def _wheel(folder: Path, body: str, version: str = "2.1.2") -> Path:
    """A stand-in for a compiled torch_scatter: a wheel whose import runs `body`."""
    path = folder / f"torch_scatter-{version}-py3-none-any.whl"
    info = f"torch_scatter-{version}.dist-info"
    members = {
        "torch_scatter/__init__.py": body,
        "torch_scatter/extra/data.txt": "kept",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: torch_scatter\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in members) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", record)
    return path


BROKEN = "raise ImportError('no kernel image is available for execution on the device')\n"
WORKING = """
import torch
__version__ = 'original'
def scatter_max(src, index):
    return src.amax(0, keepdim=True), index[-1:]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with pip, which sees the torch and the portable-kernels of these tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    source = Path(portable_kernels.__file__).parents[1]
    (Path(site) / "tests.pth").write_text(f"{source}\n{sysconfig.get_path('purelib')}\n")
    return python


@pytest.fixture
def clean(environment: Path) -> Iterator[Path]:
    """The environment, without torch_scatter before and after."""
    yield environment
    subprocess.run(
        [environment, "-m", "pip", "uninstall", "--yes", "-q", "torch_scatter"],
        check=False,
        capture_output=True,
    )


def _run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, *arguments], capture_output=True, text=True, check=False)


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(Path(sys.executable), "-m", "portable_kernels", *arguments)


def _pip_install(python: Path, wheel: Path) -> None:
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)


def _site_files(python: Path) -> dict[str, str]:
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    return {
        str(path.relative_to(site)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(site.glob("torch_scatter*/**/*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_install_import_pins_and_removal(clean: Path) -> None:
    before = _site_files(clean)
    done = _cli("install", "--shim", "torch-scatter", "--env", str(clean))
    assert done.returncode == 0, done.stderr
    used = _run(
        clean,
        "-c",
        "import torch, torch_scatter, importlib.metadata as m;"
        "from torch_scatter import scatter_mean, scatter_max;"
        "assert torch_scatter.utils.broadcast and torch_scatter.composite.std.scatter_std;"
        "import torch_scatter.scatter, torch_scatter.segment_csr;"  # modules named as functions are
        "torch_scatter.scatter(torch.ones(2), torch.tensor([0, 1])); assert callable(torch_scatter.segment_csr);"
        "from torch_scatter.composite import scatter_softmax;"
        "torch.ops.torch_scatter.scatter_max(torch.ones(2), torch.tensor([0, 1]), 0, None, None);"
        "print(m.version('torch_scatter'), torch_scatter.__version__, scatter_mean(torch.tensor([1., 3.]), torch.tensor([0, 0])))",
    )
    assert used.stdout.split()[:2] == ["2.1.2+portable", "2.1.2"], used.stderr
    assert "2." in used.stdout.split()[2]
    # pip finds the pin of a requirements file satisfied, and nothing missing.
    pinned = _run(clean, "-m", "pip", "install", "--no-index", "torch_scatter==2.1.2")
    assert "already satisfied" in pinned.stdout, pinned.stderr
    assert (
        "torch"
        not in _run(clean, "-m", "pip", "check").stdout.replace("torch ", "").partition("torch_scatter")[1]
    )
    rows = json.loads(_cli("list", "--env", str(clean), "--json").stdout)
    row = next(row for row in rows["shims"] if row["name"] == "torch_scatter")
    assert (row["state"], row["installed"], row["replaced"]) == ("shim", "2.1.2+portable", None)
    assert (
        _cli("install", "--shim", "torch_scatter", "--env", str(clean)).returncode == 0
    )  # once more is harmless
    gone = _cli("uninstall", "--shim", "torch_scatter", "--env", str(clean))
    assert gone.returncode == 0, gone.stderr
    assert _site_files(clean) == before == {}


@pytest.mark.slow
def test_a_broken_original_is_replaced_and_comes_back(clean: Path, tmp_path: Path) -> None:
    _pip_install(clean, _wheel(tmp_path, BROKEN))
    before = _site_files(clean)
    done = _cli(
        "install", "--shim", "torch_scatter", "--env", str(clean.parents[1])
    )  # an environment's folder
    assert done.returncode == 0, done.stderr
    assert "2.1.2" in done.stdout
    assert "extra" not in "".join(_site_files(clean))
    assert _run(clean, "-c", "import torch_scatter").returncode == 0
    rows = json.loads(_cli("list", "--env", str(clean), "--json").stdout)
    assert next(row for row in rows["shims"] if row["name"] == "torch_scatter")["replaced"] == "2.1.2"
    gone = _cli("uninstall", "--shim", "torch_scatter", "--env", str(clean))
    assert "2.1.2 is back" in gone.stdout, gone.stderr
    assert _site_files(clean) == before
    assert "no kernel image" in _run(clean, "-c", "import torch_scatter").stderr


@pytest.mark.slow
def test_an_original_in_the_environment_below_is_covered_and_left_alone(clean: Path, tmp_path: Path) -> None:
    """As in an image: a virtual environment over one whose torch_scatter fits another torch."""
    _pip_install(clean, _wheel(tmp_path, BROKEN))
    below = _run(clean, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    before = _site_files(clean)
    venv.create(tmp_path / "overlay", with_pip=True, symlinks=True)
    overlay = tmp_path / "overlay" / "bin" / "python"
    site = Path(_run(overlay, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    source = Path(portable_kernels.__file__).parents[1]
    (site / "below.pth").write_text(f"{below}\n{source}\n{sysconfig.get_path('purelib')}\n")
    done = _cli("install", "--shim", "torch_scatter", "--env", str(overlay))
    assert done.returncode == 0, done.stderr
    assert _run(overlay, "-c", "import torch_scatter").returncode == 0
    assert "2.1.2 of the environment below, which stays there" in done.stdout
    assert not (tmp_path / "overlay" / "share" / "portable-kernels").exists()
    assert _cli("uninstall", "--shim", "torch_scatter", "--env", str(overlay)).returncode == 0
    assert "no kernel image" in _run(overlay, "-c", "import torch_scatter").stderr
    assert _site_files(clean) == before


@pytest.mark.slow
def test_a_working_original_stays_unless_told(clean: Path, tmp_path: Path) -> None:
    _pip_install(clean, _wheel(tmp_path, WORKING, "2.1.1"))
    before = _site_files(clean)
    refused = _cli("install", "--shim", "torch_scatter", "--env", str(clean))
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert _site_files(clean) == before
    kept = _cli("uninstall", "--shim", "torch_scatter", "--env", str(clean))  # an original is never removed
    assert kept.returncode == 1
    assert _site_files(clean) == before
    assert _cli("install", "--shim", "torch_scatter", "--env", str(clean), "--force").returncode == 0
    assert (
        _run(clean, "-c", "import torch_scatter; print(torch_scatter.__version__)").stdout.strip() == "2.1.2"
    )
    assert _cli("uninstall", "--shim", "torch_scatter", "--env", str(clean)).returncode == 0
    assert _site_files(clean) == before


def _site(python: Path) -> Path:
    return Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())


@pytest.mark.slow
def test_an_original_of_links_comes_back_as_links(clean: Path, tmp_path: Path) -> None:
    """As `uv pip install --link-mode symlink` leaves it: real folders, and links into a cache."""
    _pip_install(clean, _wheel(tmp_path, BROKEN))
    site = _site(clean)
    links = {}
    for number, path in enumerate(sorted(site.glob("torch_scatter*/**/*"))):
        if path.is_file() and "__pycache__" not in path.parts:
            links[path] = path.rename(tmp_path / f"cached-{number}")
            path.symlink_to(links[path])
    done = _cli("install", "--shim", "torch_scatter", "--env", str(clean))
    assert "uninstall brings back" in done.stdout, done.stderr
    assert _run(clean, "-c", "import torch_scatter").returncode == 0
    gone = _cli("uninstall", "--shim", "torch_scatter", "--env", str(clean))
    assert "2.1.2 is back" in gone.stdout, gone.stderr
    assert {path: path.readlink() for path in links if path.is_symlink()} == links


@pytest.mark.slow
@pytest.mark.parametrize("how", ["develop", "egg"])
def test_an_original_of_setup_py_comes_back(clean: Path, tmp_path: Path, how: str) -> None:
    """`setup.py develop` leaves an .egg-link and a line in easy-install.pth, `setup.py install` an egg."""
    site = _site(clean)
    place = tmp_path / "source" if how == "develop" else site / "torch_scatter-2.1.2-py3-none-any.egg"
    info = place / ("torch_scatter.egg-info" if how == "develop" else "EGG-INFO")
    package = place / "torch_scatter"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text(BROKEN)
    (info / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: torch-scatter\nVersion: 2.1.2\n")
    (info / "top_level.txt").write_text("torch_scatter\n")
    (info / "SOURCES.txt").write_text("torch_scatter/__init__.py\n")
    pth, link = site / "easy-install.pth", site / "torch-scatter.egg-link"
    pth.write_text(f"/another/one\n{place if how == 'develop' else './' + place.name}\n")
    before = pth.read_text()
    if how == "develop":
        link.write_text(f"{place}\n.")
    try:
        done = _cli("install", "--shim", "torch_scatter", "--env", str(clean))
        assert "uninstall brings back" in done.stdout, done.stderr
        assert _run(clean, "-c", "import torch_scatter").returncode == 0
        gone = _cli("uninstall", "--shim", "torch_scatter", "--env", str(clean))
        assert "2.1.2 is back" in gone.stdout, gone.stderr
        assert pth.read_text() == before
        assert link.exists() == (how == "develop")
        assert (package / "__init__.py").read_text() == BROKEN
        assert "no kernel image" in _run(clean, "-c", "import torch_scatter").stderr
    finally:
        pth.unlink()
        link.unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.slow
def test_an_editable_original_comes_back(clean: Path, tmp_path: Path) -> None:
    """PEP 660: the wheel holds a .pth file that names the sources."""
    sources = tmp_path / "sources" / "torch_scatter"
    sources.mkdir(parents=True)
    (sources / "__init__.py").write_text(BROKEN)
    wheel = tmp_path / "torch_scatter-2.1.2-0.editable-py3-none-any.whl"
    with zipfile.ZipFile(_wheel(tmp_path, BROKEN)) as plain, zipfile.ZipFile(wheel, "w") as editable:
        names = [name for name in plain.namelist() if ".dist-info/" in name and "RECORD" not in name]
        for name in names:
            editable.writestr(name, plain.read(name))
        editable.writestr("__editable__.torch_scatter-2.1.2.pth", f"{sources.parent}\n")
        record = [*names, "__editable__.torch_scatter-2.1.2.pth", "torch_scatter-2.1.2.dist-info/RECORD"]
        editable.writestr(record[-1], "".join(f"{name},,\n" for name in record))
    _pip_install(clean, wheel)
    assert "no kernel image" in _run(clean, "-c", "import torch_scatter").stderr
    done = _cli("install", "--shim", "torch_scatter", "--env", str(clean))
    assert "uninstall brings back" in done.stdout, done.stderr
    assert _run(clean, "-c", "import torch_scatter").returncode == 0
    gone = _cli("uninstall", "--shim", "torch_scatter", "--env", str(clean))
    assert "2.1.2 is back" in gone.stdout, gone.stderr
    assert "no kernel image" in _run(clean, "-c", "import torch_scatter").stderr


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_changes_nothing(clean: Path, tmp_path: Path) -> None:
    _pip_install(clean, _wheel(tmp_path, BROKEN))
    before = _site_files(clean)
    share = clean.parents[1] / "share"
    shutil.rmtree(share, ignore_errors=True)
    share.write_text("a file where a folder should be")
    try:
        refused = _cli("install", "--shim", "torch_scatter", "--env", str(clean))
    finally:
        share.unlink()
    assert refused.returncode == 1
    assert "could not be kept" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert _site_files(clean) == before


@pytest.mark.slow
def test_what_cannot_be_put_back_stays_kept_until_it_can(clean: Path, tmp_path: Path) -> None:
    _pip_install(clean, _wheel(tmp_path, BROKEN))
    before = _site_files(clean)
    assert _cli("install", "--shim", "torch_scatter", "--env", str(clean)).returncode == 0
    blocking = _site(clean) / "torch_scatter" / "extra"  # a folder of the original
    blocking.write_text("a file where a folder should be")
    failed = _cli("uninstall", "--shim", "torch_scatter", "--env", str(clean))
    assert failed.returncode == 1
    assert "could not be put back" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert [name for name in _site_files(clean) if name != "torch_scatter/extra"] == []
    blocking.unlink()
    again = _cli("uninstall", "--shim", "torch_scatter", "--env", str(clean))
    assert "2.1.2 is back" in again.stdout, again.stderr
    assert _site_files(clean) == before


@pytest.mark.slow
def test_an_original_without_a_list_of_its_files_stays(clean: Path) -> None:
    site = _site(clean)
    info = site / "torch_scatter-2.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_scatter\nVersion: 2.1.2\n")
    try:
        refused = _cli("install", "--shim", "torch_scatter", "--env", str(clean))
        assert refused.returncode == 1
        assert "no list of its files" in refused.stderr
        assert (info / "METADATA").exists()
    finally:
        shutil.rmtree(info)


@pytest.mark.slow
def test_files_of_no_distribution_are_not_shadowed(clean: Path) -> None:
    site = Path(_run(clean, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    stray = site / "torch_scatter"
    stray.mkdir()
    (stray / "__init__.py").touch()
    try:
        refused = _cli("install", "--shim", "torch_scatter", "--env", str(clean))
        assert refused.returncode == 1
        assert str(stray) in refused.stderr
    finally:
        (stray / "__init__.py").unlink()
        for path in stray.rglob("*.pyc"):
            path.unlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("install", "--shim", "torch_sparse"), "There is no shim for torch_sparse"),
        (("install", "--shim", ","), "There is no shim for nothing"),
        (("install", "--shim", "torch_scatter", "--env", "/nowhere/python"), "neither a Python interpreter"),
        (("uninstall", "--shim", "torch_scatter"), "There is no shim of torch_scatter"),
    ],
)
def test_mistakes_are_one_paragraph(arguments: tuple[str, ...], words: str) -> None:
    outcome = _cli(*arguments)
    assert outcome.returncode == 1
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_an_environment_without_portable_kernels_is_told(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    outcome = _cli("install", "--shim", "torch_scatter", "--env", str(tmp_path / "bare"))
    assert outcome.returncode == 1
    assert "portable-kernels itself is not installed" in outcome.stderr


@pytest.mark.slow
def test_a_failing_installer_changes_nothing(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pip_install(clean, _wheel(tmp_path, BROKEN))
    before = _site_files(clean)
    monkeypatch.setenv("PIP_REQUIRE_HASHES", "1")  # pip refuses wheels that nobody vouched for
    refused = _cli("install", "--shim", "torch_scatter", "--env", str(clean))
    assert refused.returncode == 1
    assert "installer refused" in refused.stderr
    assert _site_files(clean) == before


@pytest.mark.parametrize("shim", all_shims(), ids=lambda shim: shim.distribution)
def test_every_shim_is_a_valid_reproducible_wheel(shim, tmp_path: Path) -> None:
    first, second = (
        build_wheel(shim, tmp_path / name) for name in ("a", "b") if not (tmp_path / name).mkdir()
    )
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        record = archive.read(next(name for name in names if name.endswith("/RECORD"))).decode().splitlines()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert sorted(line.split(",")[0] for line in record) == sorted(names)
    assert f"Version: {shim.version}+portable" in metadata
    assert all(any(name.startswith(f"{package}/") for name in names) for package in shim.import_names)
    assert not any(name.endswith((".so", ".pyd", ".pyc")) for name in names)


def test_names_are_compared_as_pip_does() -> None:
    assert named_shims(["Torch.Scatter"]) == named_shims(["torch_scatter"])
    with pytest.raises(ShimError, match="neither"):
        Environment("/nowhere")
