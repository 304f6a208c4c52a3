"""Silence on healthy environments, and findings on unhealthy ones, made of published wheels by pip.

The CUDA environment is CuPy with all CUDA libraries that it asks for (1.1 GB of wheels): a torch with its
NVIDIA wheels is three times that.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from bringup.facts.machine import MachineFacts

from .conftest import Broken
from .examining import A100, H200, RTX_5090, examine, ids

pytestmark = pytest.mark.slow


def installed(root: Path, *requirements: str) -> Path:
    """A virtual environment with what pip finds on the index that it is configured for."""
    venv.create(root, with_pip=True, symlinks=True)
    pip = [str(root / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, *requirements], check=True)
    return root


def wheel(folder: Path, requirement: str, python: str) -> Path:
    """One published wheel, not installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--python-version", python, "-d", str(folder), requirement], check=True)
    return next(folder.glob("*.whl"))


def unpack(file: Path, site: Path) -> None:
    """What pip does with a wheel of one folder: RECORD and all."""
    with zipfile.ZipFile(file) as archive:
        archive.extractall(site)


def test_a_fresh_environment_for_the_cpu(machine: MachineFacts, tmp_path: Path) -> None:
    common = ("numba", "opencv-python-headless", "scikit-learn", "onnxruntime")
    root = installed(tmp_path / "env", "torch==2.13.0", *common)
    assert [row for row in examine(machine, root) if row.severity != "info"] == []
    shutil.rmtree(root)


def test_a_correct_environment_for_its_gpu(machine: MachineFacts, tmp_path: Path) -> None:
    root = installed(tmp_path / "env", "cupy-cuda13x[ctk]", "numba")
    # One library for each CUDA release, of which those before 12.8 have nothing for an RTX 5090.
    pip = [str(root / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps"]
    subprocess.run([*pip, "bitsandbytes==0.50.2"], check=True)
    found = examine(machine, root, RTX_5090, H200, A100, driver="580.65.06", driver_cuda=(13, 0))
    assert [row for row in found if row.severity != "info"] == []
    # The same libraries taken away: everything that needs them is named in one finding.
    shutil.rmtree(next(root.glob("lib/python3*/site-packages/nvidia")))
    lost = examine(machine, root, RTX_5090)
    (finding,) = [row for row in lost if row.severity == "error"]
    assert (finding.id, finding.subject) == ("missing-library", "cupy-cuda13x")
    assert "nvidia-cufft==12.*" in finding.fix
    assert {"libcufft.so.12", "libcusparse.so.12"} <= {row.value for row in finding.evidence}
    shutil.rmtree(root)


def test_cuda_torchvision_beside_a_cpu_torch(
    broken: Broken, machine: MachineFacts, tmp_path: Path, torch_library_folder: Path
) -> None:
    """The wheel of the package index is a CUDA build, whatever torch is there."""
    broken.torch("2.13.0+cpu", None)
    (broken.site / "torch" / "lib").mkdir()
    for name in ("libc10.so", "libtorch_cpu.so", "libtorch.so", "libtorch_python.so", "libshm.so"):
        (broken.site / "torch" / "lib" / name).symlink_to(torch_library_folder / name)
    unpack(wheel(tmp_path, "torchvision==0.28.0", "3.11"), broken.site)
    found = examine(machine, broken.root, bare_system=True)
    told = next(row for row in found if row.id == "built-for-another-torch")
    assert (told.subject, told.severity) == ("torchvision", "error")
    assert told.error_text == "RuntimeError: operator torchvision::nms does not exist"
    assert "sm_120" in told.evidence[0].value
    assert told.fix.endswith("install torchvision==0.28.0 --index-url https://download.pytorch.org/whl/cpu")


def test_xformers_beside_another_torch(broken: Broken, machine: MachineFacts, tmp_path: Path) -> None:
    """xFormers 0.0.35 asks for torch >= 2.10, so pip is content; its own record says what it was built for."""
    unpack(wheel(tmp_path, "xformers==0.0.35", "3.11"), broken.site)
    broken.torch("2.11.0+cu130", "13.0")
    found = examine(machine, broken.root)
    told = next(row for row in found if row.id == "built-for-another-torch")
    assert (told.subject, told.severity) == ("xformers", "error")
    assert {"2.10.0+cu128", "2.11.0+cu130", "12.8"} <= {row.value for row in told.evidence}
    assert "can't load C++/CUDA extensions" in told.error_text
    version = broken.site / "torch" / "version.py"
    text = version.read_text().replace("2.11.0+cu130", "2.10.0+cu128").replace("'13.0'", "'12.8'")
    version.write_text(text)
    assert "built-for-another-torch" not in ids(examine(machine, broken.root))


def test_tensorflow_2_11_1_on_an_rtx_5090(broken: Broken, machine: MachineFacts, tmp_path: Path) -> None:
    """The TensorFlow of DeepPrep's image: no machine code for 12.0, PTX in all but one container."""
    unpack(wheel(tmp_path, "tensorflow==2.11.1", "3.10"), broken.site)
    found = examine(machine, broken.root, RTX_5090, A100, bare_system=True)
    compiled = [row for row in found if row.id == "engine-compiles-ptx"]
    assert [row.parameters["gpu"] for row in compiled] == [RTX_5090.name]
    values = {row.what: row.value for row in compiled[0].evidence}
    assert values["machine code"] == "sm_35 sm_50 sm_60 sm_70 sm_75 sm_80"
    assert values["containers compiled from PTX"] == "204"
    assert "30 minutes" in compiled[0].error_text
    without = next(row for row in found if row.id == "engine-without-libraries")
    assert "libcudnn.so.8" in without.parameters["libraries"]
