"""Toolkits really installed from wheels and taken away again; plans whose commands are really run."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from packaging.version import Version

from bringup.binaries.report import BinaryReport, scan_file
from bringup.catalog import load
from bringup.catalog.schema import Toolkit
from bringup.errors import BringupError
from bringup.facts.host import read_host
from bringup.steps.toolkit.plans import COMPONENTS, plan_toolkit

from .conftest import Bringup

KERNEL = "__global__ void k(float* x) { x[0] = 1; }\nint main() { k<<<1, 1>>>(nullptr); return 0; }\n"


def empty_environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder


def pip(environment: Path, *words: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--python",
        str(environment / "bin" / "python"),
        *words,
    ]
    subprocess.run(command, check=True)


def site(environment: Path) -> Path:
    return next(environment.glob("lib/python3*/site-packages"))


def test_toolkit_from_wheels_compiles_and_links_as_an_installed_one(bringup: Bringup, tmp_path: Path) -> None:
    code, document = bringup("toolkit", "install", "13.0")
    assert code == 0
    root = Path(document["root"])
    assert (root / "lib64" / "libcudart.so").exists(), "what `-lcudart` and CMake ask for"
    (tmp_path / "k.cu").write_text(KERNEL)
    nvcc = [str(root / "bin" / "nvcc"), "-cudart", "shared", "-arch=sm_120", "k.cu", "-o", "program"]
    subprocess.run(nvcc, cwd=tmp_path, check=True, capture_output=True)
    report = scan_file(tmp_path / "program")
    assert isinstance(report, BinaryReport)
    assert "sm_120" in report.machine_code
    assert "libcudart.so.13" in report.needed
    assert bringup("toolkit", "list")[1]["toolkits"][0]["root"] == str(root)
    plan = bringup("toolkit", "remove")[1]
    assert [row["path"] for row in plan["folders"]] == [str(root.parents[1])]
    assert not plan["done"]
    assert root.is_dir(), "named, not touched"
    assert bringup("toolkit", "remove", "--yes")[1]["done"]
    assert not root.exists()


def test_what_an_environment_has_stays_as_it_is(bringup: Bringup, tmp_path: Path) -> None:
    environment = empty_environment(tmp_path / "env")
    # As torch pins it; the toolkit of today would want a newer one.
    pip(environment, "install", "--no-deps", "nvidia-cuda-runtime==13.0.48")
    code, document = bringup("toolkit", "install", "13.0", "--into", environment)
    assert code == 0
    added = dict(document["packages"])
    assert "nvidia-cuda-nvcc" in added
    assert "nvidia-cuda-runtime" not in added
    assert (site(environment) / "nvidia_cuda_runtime-13.0.48.dist-info").is_dir()
    removed = bringup("toolkit", "remove", "--from", environment, "--yes")[1]
    assert {row["name"] for row in removed["packages"]} == set(added)
    assert (site(environment) / "nvidia" / "cu13" / "lib" / "libcudart.so.13").exists(), "not ours"
    assert not (site(environment) / "nvidia" / "cu13" / "bin" / "nvcc").exists()
    assert not (site(environment) / "nvidia" / "cu13" / "lib64").exists()
    code, error = bringup("toolkit", "remove", "--from", environment)
    assert (code, error["id"]) == (1, "toolkit-not-ours")


@pytest.mark.slow
def test_what_others_came_to_need_is_kept(bringup: Bringup, tmp_path: Path) -> None:
    environment = empty_environment(tmp_path / "env")
    bringup("toolkit", "install", "13.0", "--into", environment)
    metadata = site(environment) / "late_comer-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        "Metadata-Version: 2.1\nName: late-comer\nVersion: 1.0\nRequires-Dist: nvidia-cuda-crt\n"
    )
    pip(environment, "install", "--no-deps", "nvidia-cuda-runtime==13.0.48")
    removed = bringup("toolkit", "remove", "--from", environment, "--yes")[1]
    kept = {row["name"]: row["kept"] for row in removed["packages"] if row["kept"]}
    assert kept == {"nvidia-cuda-crt": "late-comer", "nvidia-cuda-runtime": "changed"}
    assert (site(environment) / "nvidia" / "cu13" / "include" / "crt").is_dir()


def archive(component: str) -> bytes:
    """As NVIDIA packs them: everything below one folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as tar:
        for name in (f"include/{component}.h", f"lib/{component}.so", "LICENSE"):
            member = tarfile.TarInfo(f"{component}-linux-x86_64-12.8-archive/{name}")
            member.size = len(component)
            tar.addfile(member, io.BytesIO(component.encode()))
    return stream.getvalue()


def mirror(folder: Path, spoiled: str = "") -> str:
    """A mirror of NVIDIA's archive with small components. `spoiled`: one whose bytes are not the manifest's."""
    manifest = {}
    for component in COMPONENTS:
        data = archive(component)
        path = f"{component}/linux-x86_64/{component}.tar.xz"
        (folder / "redist" / path).parent.mkdir(parents=True)
        digest = hashlib.sha256(data).hexdigest()
        (folder / "redist" / path).write_bytes(data[:-1] + b"!" if component == spoiled else data)
        row = {"relative_path": path, "sha256": digest}
        manifest[component] = {"version": "12.8.1", "linux-x86_64": row, "linux-sbsa": row}
    (folder / "redist" / "redistrib_12.8.1.json").write_text(json.dumps(manifest))
    return folder.as_uri()


@pytest.mark.parametrize("row", load().toolkits, ids=lambda row: row.version)
def test_the_catalog_says_what_is_offered(row: Toolkit) -> None:
    if Version(row.version) >= Version("13.0"):
        assert row.offered  # From wheels.
    elif row.offered:
        assert plan_toolkit(row.version, read_host()).ways
    else:
        with pytest.raises(BringupError, match="toolkit-unknown"):
            plan_toolkit(row.version, read_host())


def test_cuda_12_is_a_plan_whose_commands_work(bringup: Bringup, home: Path, tmp_path: Path) -> None:
    code, plan = bringup("toolkit", "install", "12.8", "--mirror", mirror(tmp_path / "mirror"))
    assert code == 0
    assert {"components", "runfile"} <= {way["id"] for way in plan["ways"]}
    assert not home.exists(), "a plan touches nothing"
    way = next(way for way in plan["ways"] if way["id"] == "components")
    subprocess.run(["bash", "-e", "-c", "\n".join(way["commands"])], check=True, capture_output=True)
    root = Path(way["root"])
    assert (root / "include" / "cuda_nvcc.h").read_text() == "cuda_nvcc"
    assert (root / "lib64" / "libcublas.so").read_text() == "libcublas"
    assert bringup("toolkit", "remove", "12.8", "--yes")[1]["folders"][0]["path"] == str(root)
    assert not root.exists()


def test_component_with_a_wrong_hash_is_not_unpacked(bringup: Bringup, tmp_path: Path) -> None:
    address = mirror(tmp_path / "mirror", spoiled="cuda_cudart")
    way = bringup("toolkit", "install", "12.8", "--mirror", address)[1]["ways"][0]
    ran = subprocess.run(["bash", "-c", way["commands"][0]], capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "cuda_cudart: wrong hash" in ran.stderr
    assert not (Path(way["root"]) / "include" / "cuda_cudart.h").exists()


def test_runfile_is_named_as_nvidia_names_it(bringup: Bringup) -> None:
    ways = bringup("toolkit", "install", "12.8")[1]["ways"]
    text = " ".join(command for way in ways for command in way["commands"])
    assert "cuda_12.8.1_570.124.06_linux.run" in text
    assert "--toolkit" in text
    assert "cuda-drivers" not in text, "a driver is never among them"


@pytest.mark.parametrize(
    ("version", "id"),
    [
        ("12", "toolkit-version"),
        ("9.9", "toolkit-unknown"),
        ("99.9", "toolkit-unknown"),
        ("x", "toolkit-version"),
    ],
)
def test_versions_that_are_none(bringup: Bringup, version: str, id: str) -> None:
    code, error = bringup("toolkit", "install", version)
    assert (code, error["id"]) == (2, id)


def test_removal_of_no_version(bringup: Bringup) -> None:
    code, error = bringup("toolkit", "remove", "*", "--system", "--yes")
    assert (code, error["id"]) == (2, "toolkit-version")


# Names as NVIDIA's repository for ubuntu2204 and Debian have them.
INSTALLED = {
    "cuda-toolkit-12-8": ("12.8.1-1", "cuda-compiler-12-8, cuda-nsight-compute-12-8, gds-tools-12-8"),
    "cuda-toolkit-12-8-config-common": ("12.8.90-1", ""),
    "cuda-toolkit-12-config-common": ("12.8.90-1", ""),
    "cuda-nvcc-12-8": ("12.8.93-1", "gcc"),
    "cuda-nsight-compute-12-8": ("12.8.1-1", "nsight-compute-2025.1.1 (>= 2025.1.1.2)"),
    "nsight-compute-2025.1.1": ("2025.1.1.2-1", ""),
    "libnvjitlink-dev-12-8": ("12.8.93-1", "libnvjitlink-12-8 (>= 12.8.93)"),
    "libcufile-12-8": ("1.13.1.3-1", ""),
    "gds-tools-12-8": ("1.13.1.3-1", ""),
    "cuda-nvcc-2-8": ("2.8-1", ""),
    "nvidia-cuda-toolkit": ("11.8.89~11.8.0-5", ""),
    "cuda-drivers-570": ("570.124.06-1", ""),
    "cuda-compat-12-8": ("570.124.06-1", ""),
    "cuda-keyring": ("1.1-1", ""),
    "nvidia-driver-570": ("570.124.06-1", ""),
    "gcc": ("12", ""),
}
OF_12_8 = {
    *("cuda-toolkit-12-8", "cuda-toolkit-12-8-config-common", "cuda-nvcc-12-8", "cuda-nsight-compute-12-8"),
    *("nsight-compute-2025.1.1", "libnvjitlink-dev-12-8", "libcufile-12-8", "gds-tools-12-8"),
}


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="this system has no dpkg")
@pytest.mark.parametrize(
    ("version", "named"),
    [
        ("12.8", OF_12_8),
        ("2.8", {"cuda-nvcc-2-8"}),
        ("11.8", {"nvidia-cuda-toolkit"}),
        (None, OF_12_8 | {"cuda-toolkit-12-config-common", "cuda-nvcc-2-8", "nvidia-cuda-toolkit"}),
    ],
)
def test_packages_of_the_system_are_all_named_and_no_driver_is(
    bringup: Bringup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, named: set[str]
) -> None:
    """dpkg's own program over a prepared database."""
    rows = [
        f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nMaintainer: x\n"
        f"Version: {number}\n{f'Depends: {depends}' + chr(10) if depends else ''}Description: x\n"
        for name, (number, depends) in INSTALLED.items()
    ]
    (tmp_path / "status").write_text("\n".join(rows))
    (tmp_path / "info").mkdir()
    (tmp_path / "updates").mkdir()
    monkeypatch.setenv("DPKG_ADMINDIR", str(tmp_path))
    words = ["toolkit", "remove", *([version] if version else []), "--system", "--yes"]
    code, document = bringup(*words)
    assert code == 0
    assert {row["name"] for row in document["system"]["packages"]} == named
    purge = next(line for line in document["system"]["commands"] if "apt-get" in line)
    assert set(purge.split()[3:]) == named


def test_system_toolkits_are_named_with_their_commands_and_left_alone(bringup: Bringup) -> None:
    before = sorted(Path("/usr/local").glob("cuda*"))
    code, document = bringup("toolkit", "remove", "--system", "--yes")
    assert code == 0
    assert sorted(Path("/usr/local").glob("cuda*")) == before
    named = {row["path"] for row in document["system"]["folders"]}
    assert named == {
        str(path) for path in before if path.is_dir() and not path.is_symlink() and "-" in path.name
    }
    assert not any("driver" in command for command in document["system"]["commands"])
