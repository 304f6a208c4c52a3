"""The catalog: complete, unique, and sane against itself and the published wheels."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import load
from bringup.errors import BringupError

CATALOG = load()
ROOT = Path(__file__).parents[4]
FIXTURES = Path(__file__).parents[1] / "binaries" / "fixtures"
RELEASES = [
    "1.13.0",
    "1.13.1",
    "2.0.0",
    "2.0.1",
    "2.1.0",
    "2.1.1",
    "2.1.2",
    "2.2.0",
    "2.2.1",
    "2.2.2",
    "2.3.0",
    "2.3.1",
    "2.4.0",
    "2.4.1",
    "2.5.0",
    "2.5.1",
    "2.6.0",
    "2.7.0",
    "2.7.1",
    "2.8.0",
    "2.9.0",
    "2.9.1",
    "2.10.0",
    "2.11.0",
    "2.12.0",
    "2.12.1",
    "2.13.0",
    "2.14.0",
    "2.14.1",
    "2.15.0",
]


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_has_a_default_and_a_cpu_build(release: str) -> None:
    builds = [build for build in CATALOG.torch_builds if build.version == release]
    assert [build.index for build in builds].count(None) == 1
    assert any(build.cuda is None for build in builds)


def test_rows_are_unique() -> None:
    keys = [(build.version, build.local) for build in CATALOG.torch_builds]
    assert len(keys) == len(set(keys))
    for names in (
        [row.version for row in CATALOG.toolkits],
        [row.name for row in CATALOG.gpus],
        [row.name for row in CATALOG.extensions],
    ):
        assert len(names) == len(set(names))


def test_every_build_is_buildable_by_its_toolkit() -> None:
    for build in CATALOG.torch_builds:
        SpecifierSet(build.python)
        if build.cuda is None:
            assert not build.machine_code
            continue
        toolkit = CATALOG.toolkit(build.cuda)
        assert toolkit is not None, build.cuda
        assert build.machine_code
        assert set(build.machine_code) <= set(toolkit.architectures), (build.version, build.local)
        assert {name.replace("compute", "sm") for name in build.ptx} <= set(toolkit.architectures)


def test_builds_for_aarch64_have_code_of_their_own() -> None:
    for build in CATALOG.torch_builds:
        with_code = build.cuda is not None and "linux-aarch64" in build.platforms
        assert bool(build.machine_code_aarch64) == with_code, (build.version, build.local)


def test_thor_is_served_on_aarch64_alone_and_turing_on_x86_alone() -> None:
    thor, turing = ComputeCapability(11, 0), ComputeCapability(7, 5)
    build = next(row for row in CATALOG.torch_builds if row.version == "2.11.0" and row.index is None)
    for chip, platform in ((thor, "linux-aarch64"), (turing, "linux-x86_64")):
        assert CATALOG.torch_runs_on(build, chip) and CATALOG.torch_runs_on(build, chip, platform)
        other = ({"linux-aarch64", "linux-x86_64"} - {platform}).pop()
        assert not CATALOG.torch_runs_on(build, chip, other)


def test_toolkits_advance() -> None:
    rows = CATALOG.toolkits
    assert rows[0].version == "10.2"
    for older, newer in itertools.pairwise(rows):
        assert Version(older.version) < Version(newer.version)
        assert Version(older.ptx_isa) <= Version(newer.ptx_isa)
        assert older.gcc_min <= older.gcc_max <= newer.gcc_max
        assert Version(older.driver_linux) <= Version(newer.driver_linux)
        assert Version(older.driver_windows) <= Version(newer.driver_windows)


def test_toolkit_by_full_version() -> None:
    toolkit = CATALOG.toolkit("12.8.93")
    assert toolkit is not None
    assert toolkit.version == "12.8"
    assert toolkit.gcc_max == 14
    assert CATALOG.toolkit("9.0") is None


def test_drivers_and_toolkits_agree() -> None:
    for row in CATALOG.toolkits:
        minimum = CATALOG.minimum_driver(row.version, windows=False)
        assert minimum in (None, row.driver_linux)


def test_every_gpu_is_found_by_its_own_name() -> None:
    for gpu in CATALOG.gpus:
        assert str(CATALOG.find_gpu(gpu.name)[1]) == gpu.capability, gpu.name


@pytest.mark.parametrize(
    ("text", "capability"),
    [
        ("RTX 5090", "12.0"),
        ("5070 Ti", "12.0"),
        ("5070ti", "12.0"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "8.9"),
        ("NVIDIA H200", "9.0"),
        ("NVIDIA A100-SXM4-80GB", "8.0"),
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("Tesla T4", "7.5"),
        ("Tesla V100-SXM2-16GB", "7.0"),
        ("GTX 680", "3.0"),
        ("K80", "3.7"),
        ("DGX Spark", "12.1"),
        ("RTX PRO 6000 Blackwell", "12.0"),
        ("B300", "10.3"),
        ("NVIDIA B300 SXM6 AC", "10.3"),
        ("NVIDIA A10G", "8.6"),
        ("NVIDIA T4G", "7.5"),
        ("Tesla V100S-PCIE-32GB", "7.0"),
        ("L40S", "8.9"),
        ("4070S", "8.9"),
        ("4070TiSuper", "8.9"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "8.0"),
        ("NVIDIA GeForce RTX 5090 32GB GDDR7", "12.0"),
        ("Quadro RTX 5000 with Max-Q Design", "7.5"),
        ("ＲＴＸ 5090", "12.0"),
        ("sm_120", "12.0"),
    ],
)
def test_names_that_people_use(text: str, capability: str) -> None:
    assert str(CATALOG.find_gpu(text)[1]) == capability


def test_unknown_gpu_names_the_nearest() -> None:
    for given, nearest in (
        ("RTX 5080 SUPER", "GeForce RTX 5080"),
        ("4090 Ti", "GeForce RTX 4090"),
        ("MSI GeForce RTX 5090 GAMING TRIO OC", "GeForce RTX 5090"),
        ("GRID A100D-7-80C", "A100"),
    ):
        with pytest.raises(BringupError) as caught:
            CATALOG.find_gpu(given)
        assert caught.value.parameters["nearest"] == nearest


@pytest.mark.slow
def test_rows_agree_with_the_published_metadata() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "check_catalog.py"), "2.15.0", "2.8.0", "1.13.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees") == 3


def _published(folder: Path, name: str, tag: str, library: str | None, *lines: str) -> None:
    """A wheel as an index has it, with one of the tests' kernels in the place of torch's."""
    distribution, version = name.split("-")
    metadata = "\n".join(
        ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}", *lines, ""]
    )
    with zipfile.ZipFile(folder / f"{name}-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}.dist-info/METADATA", metadata)
        wheel.writestr(f"{name}.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
        if library:
            wheel.write(FIXTURES / library, "torch/lib/libtorch_cuda.so")


@pytest.mark.parametrize("aarch64", ["two-units.so", None])
def test_wheels_of_both_machines_are_read(aarch64: str | None, tmp_path: Path) -> None:
    requires = ("Requires-Python: >=3.11", "Requires-Dist: nvidia-cuda-runtime==13.2.1")
    for machine, library in (("x86_64", "many.so"), ("aarch64", aarch64)):
        _published(tmp_path, "torch-2.15.0", f"cp311-cp311-manylinux_2_28_{machine}", library, *requires)
    _published(tmp_path, "torchvision-0.29.2", "py3-none-any", None, "Requires-Dist: torch==2.15.0")
    alone = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    command = [sys.executable, str(ROOT / "scripts" / "check_catalog.py"), "--download", "2.15.0"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | alone, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    row = next(row for row in CATALOG.torch_builds if row.version == "2.15.0" and row.index is None)
    both = [(row.machine_code, "sm_75 sm_86 sm_90a sm_120", "x86_64")]
    both += [(row.machine_code_aarch64, "sm_80", "aarch64")] if aarch64 else []
    for ours, theirs, machine in both:
        assert f"machine code on linux-{machine}: catalog {' '.join(ours)}, wheel {theirs}" in done.stdout
    assert ("cuda on linux-aarch64: catalog 13.2, wheel no CUDA library" in done.stdout) is (aarch64 is None)
    assert "PTX on linux-aarch64" not in done.stdout  # neither has any


@pytest.mark.parametrize(
    ("soname", "cuda", "wheel"),
    [
        ("libcudart.so.11.0", None, "nvidia-cuda-runtime-cu11"),
        ("libcudart.so.13", None, "nvidia-cuda-runtime==13.*"),
        ("libcusparse.so.12", 12, "nvidia-cusparse-cu12"),
        ("libcusparse.so.12", 13, "nvidia-cusparse==12.*"),
        ("libcudnn_cnn.so.9", 13, "nvidia-cudnn-cu13==9.*"),
        ("libcublasLt.so.12", 99, "nvidia-cublas-cu12"),
    ],
)
def test_what_brings_a_library(soname: str, cuda: int | None, wheel: str) -> None:
    row = CATALOG.library(soname, cuda)
    assert row is not None
    assert row.wheel == wheel


def test_libraries_that_come_from_no_wheel() -> None:
    assert CATALOG.library("libfoo.so.1") is None
    ffmpeg = CATALOG.library("libavformat.so.61")
    assert ffmpeg is not None
    assert (ffmpeg.debian, ffmpeg.optional) == ("ffmpeg", True)


def test_every_library_is_brought_by_something() -> None:
    for row in CATALOG.libraries:
        assert row.wheel or row.debian or row.replaceable, row.soname


def test_engines_and_their_chips() -> None:
    """No published TensorFlow has machine code for 12.0; ONNX Runtime's newest has."""
    chip = CATALOG.find_gpu("RTX 5090")[1]
    assert CATALOG.engine_with_machine_code("tensorflow", chip) is None
    serving = CATALOG.engine_with_machine_code("onnxruntime-gpu", chip)
    assert serving is not None
    assert serving.version == "1.31.1"
    hopper = CATALOG.engine_with_machine_code("tensorflow", CATALOG.find_gpu("H200")[1])
    assert hopper is not None
    assert hopper.version == "2.21.0"
