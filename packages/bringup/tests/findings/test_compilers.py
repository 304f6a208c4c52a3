"""Compilers against torch, chip and gcc: this machine's own compilers and the catalog's toolkits."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bringup.binaries.architectures import Architecture
from bringup.catalog import load
from bringup.facts.environment import read_environment
from bringup.facts.machine import MachineFacts
from bringup.facts.project import read_project
from bringup.facts.toolchains import CudaToolkit, HostCompiler, find_host_compilers
from bringup.findings.model import Examined, NamedGpu
from bringup.findings.rules import find

from .commands import assert_can_be_typed
from .conftest import Broken
from .examining import GTX_680, K80, RTX_5090, V100


def toolkit(version: str, release: str = "") -> CudaToolkit:
    """A release of the toolkit as the catalog describes it."""
    row = load().toolkit(version)
    assert row is not None
    root = Path(f"/usr/local/cuda-{version}")
    codes = tuple(map(Architecture.parse, row.architectures))
    return CudaToolkit(root, root / "bin" / "nvcc", version, release or f"{version}.0", codes, "system")


def gcc(version: str) -> HostCompiler:
    major = version.split(".")[0]
    return HostCompiler(Path(f"/usr/bin/g++-{major}"), Path(f"/usr/bin/gcc-{major}"), "gcc", version)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "setup.py").write_text("from torch.utils.cpp_extension import CUDAExtension\n")
    return folder


def found(
    machine: MachineFacts,
    project: Path,
    toolkits: tuple[CudaToolkit, ...],
    compilers: tuple[HostCompiler, ...],
    *gpus: NamedGpu,
    environment: Path | None = None,
) -> dict[str, str]:
    """id → fix of what the rules about compilers say."""
    examined = Examined(
        catalog=load(),
        machine=machine,
        gpus=gpus,
        environment=read_environment(environment) if environment else None,
        project=read_project(project),
        toolkits=toolkits,
        compilers=compilers,
    )
    rows = find(examined)
    for row in rows:
        assert row.evidence
        assert_can_be_typed(row.fix)
    return {row.id: row.fix for row in rows if row.id.startswith(("nvcc-", "gcc-", "wsl-", "chip-"))}


@pytest.mark.parametrize(
    ("nvcc", "torch", "expected"),
    [
        ("11.8", "12.8", {"nvcc-of-another-cuda"}),
        ("13.0", "12.8", {"nvcc-of-another-cuda"}),
        ("12.4", "12.8", set()),
        ("13.0", "13.0", set()),
        ("13.0", None, set()),
    ],
)
def test_nvcc_and_torchs_cuda(
    nvcc: str,
    torch: str | None,
    expected: set[str],
    broken: Broken,
    machine: MachineFacts,
    project: Path,
) -> None:
    broken.torch("2.7.0", torch)
    rows = found(machine, project, (toolkit(nvcc),), (gcc("11.4.0"),), environment=broken.root)
    assert set(rows) == expected


def test_a_fitting_toolkit_beside_the_first(broken: Broken, machine: MachineFacts, project: Path) -> None:
    broken.torch("2.7.0+cu128", "12.8")
    both = (toolkit("11.8"), toolkit("12.8"))
    rows = found(machine, project, both, (gcc("11.4.0"),), environment=broken.root)
    assert rows == {"nvcc-of-another-cuda": 'export CUDA_HOME="/usr/local/cuda-12.8"'}


@pytest.mark.parametrize(
    ("nvcc", "gpu", "expected"),
    [
        ("12.6", RTX_5090, {"nvcc-without-this-chip"}),
        ("12.8", RTX_5090, set()),
        ("13.0", V100, {"nvcc-without-this-chip"}),
        ("12.8", V100, set()),
    ],
)
def test_nvcc_and_the_chip(
    nvcc: str, gpu: NamedGpu, expected: set[str], machine: MachineFacts, project: Path
) -> None:
    assert set(found(machine, project, (toolkit(nvcc),), (gcc("11.4.0"),), gpu)) == expected


@pytest.mark.parametrize(
    ("nvcc", "gpu", "torch", "wanted"),
    [
        ("12.6", RTX_5090, None, "13.0"),
        ("12.6", RTX_5090, "12.8", "12.8"),
        ("12.6", RTX_5090, "12.6", "12.9"),  # not torch's own, but of its major
        ("13.0", V100, None, "12.9"),
        ("13.0", V100, "12.8", "12.8"),
        ("12.8", K80, None, "11.8"),
        (None, RTX_5090, None, "13.0"),
        (None, K80, None, "11.8"),
        (None, V100, "12.6", "12.6"),
    ],
)
def test_the_toolkit_that_is_recommended_builds_for_the_chip(
    nvcc: str | None,
    gpu: NamedGpu,
    torch: str | None,
    wanted: str,
    broken: Broken,
    machine: MachineFacts,
    project: Path,
) -> None:
    broken.torch("2.7.0", torch)
    toolkits = (toolkit(nvcc),) if nvcc else ()
    environment = broken.root if torch else None
    rows = found(machine, project, toolkits, (gcc("11.4.0"),), gpu, environment=environment)
    fix = rows["nvcc-without-this-chip" if nvcc else "nvcc-not-found"]
    assert fix.startswith(f"bringup toolkit install {wanted}")
    row = load().toolkit(wanted)
    assert row and row.offered and load().compiles_for(row, gpu.capability)


def test_a_chip_for_which_no_toolkit_is_offered(machine: MachineFacts, project: Path) -> None:
    rows = found(machine, project, (toolkit("12.8"),), (gcc("11.4.0"),), GTX_680)
    assert set(rows) == {"chip-without-toolkit"} and rows["chip-without-toolkit"].endswith("/whl/cpu")
    here = found(machine, project, (toolkit("12.8"), toolkit("10.2")), (gcc("11.4.0"),), GTX_680)
    assert here == {"nvcc-without-this-chip": 'export CUDA_HOME="/usr/local/cuda-10.2"'}


@pytest.mark.parametrize(
    ("nvcc", "compilers", "expected"),
    [
        ("11.8", ("13.2.0",), {"gcc-too-new": "apt-get install g++-11"}),
        ("11.8", ("13.2.0", "11.4.0"), {"gcc-too-new": 'export CC="/usr/bin/gcc-11" CXX="/usr/bin/g++-11"'}),
        ("11.8", ("11.4.0",), {}),
        ("12.8", ("13.2.0",), {}),
    ],
)
def test_gcc_and_nvcc(
    nvcc: str, compilers: tuple[str, ...], expected: dict[str, str], machine: MachineFacts, project: Path
) -> None:
    assert found(machine, project, (toolkit(nvcc),), tuple(map(gcc, compilers))) == expected


def test_this_machines_compiler(machine: MachineFacts, project: Path) -> None:
    """CUDA 10.2 took gcc up to 8: what is installed here is newer."""
    here = find_host_compilers()
    assert here[0].major > 8
    assert "gcc-too-new" in found(machine, project, (toolkit("10.2"),), here)


def test_nothing_to_compile_with(machine: MachineFacts, project: Path) -> None:
    assert set(found(machine, project, (), ())) == {"nvcc-not-found", "gcc-not-found"}


def test_nothing_to_compile(machine: MachineFacts, project: Path) -> None:
    (project / "setup.py").write_text("from setuptools import setup\nsetup()\n")
    assert found(machine, project, (), ()) == {}


@pytest.mark.parametrize(
    ("memory", "expected"), [(7_800_000_000, {"wsl-allotment"}), (50_000_000_000, set())]
)
def test_wsl_allotment(memory: int, expected: set[str], machine: MachineFacts, project: Path) -> None:
    """7.8 GB of 64 is what the users of torchmcubes had when WSL2 died."""
    guest = replace(machine, host=replace(machine.host, wsl="2", memory_total=memory))
    rows = found(guest, project, (toolkit("12.8"),), (gcc("11.4.0"),))
    assert set(rows) == expected
    assert all(fix == "bringup wsl" for fix in rows.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wheel", "cuda"), [("nvidia-cuda-nvcc-cu11==11.8.89", "11.8"), ("nvidia-cuda-crt==13.5.37", "13.5")]
)
def test_the_header_of_a_real_toolkit_agrees(
    wheel: str, cuda: str, tmp_path: Path, machine: MachineFacts, project: Path
) -> None:
    """The gcc that is here against the header that refuses a gcc: what it says is what the finding says."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "nvcc")]
    subprocess.run([*pip, wheel], check=True)
    header = next((tmp_path / "nvcc").rglob("crt/host_config.h"))
    here = next(row for row in find_host_compilers() if row.family == "gcc")
    compile_header = [str(here.cxx), "-E", "-x", "c++", "-D__CUDACC__", "-w", str(header)]
    ran = subprocess.run(compile_header, capture_output=True, text=True)
    said = re.search(
        r"#error -- unsupported GNU version! gcc versions later than \d+ are not supported!", ran.stderr
    )
    examined = Examined(
        load(), machine, project=read_project(project), toolkits=(toolkit(cuda),), compilers=(here,)
    )
    texts = [row.error_text for row in find(examined) if row.id == "gcc-too-new"]
    assert texts == ([said[0]] if said else [])
