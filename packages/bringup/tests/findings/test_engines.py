"""Engines other than torch: their own records of the build, real device code, NVIDIA's sonames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bringup.facts.environment import read_environment
from bringup.facts.environment_engines import read_engines
from bringup.facts.machine import MachineFacts

from .conftest import FIXTURES, Broken
from .examining import H200, RTX_5090, examine, ids

BUILD_INFO = """
import collections
build_info = collections.OrderedDict([('cuda_compute_capabilities', ['sm_35', 'compute_80']),
    ('cuda_version', '11.2'), ('cudnn_version', '8'), ('is_cuda_build', {cuda}), ('is_rocm_build', False)])
"""
TENSORFLOW_LIBRARIES = (
    "libcudart.so.11.0",
    "libcublas.so.11",
    "libcublasLt.so.11",
    "libcufft.so.10",
    "libcusolver.so.11",
    "libcusparse.so.11",
    "libcudnn.so.8",
)


def tensorflow(broken: Broken, library: str, cuda: bool = True) -> None:
    files: dict[str, Path | str] = {
        "tensorflow/python/platform/build_info.py": BUILD_INFO.format(cuda=cuda),
        "tensorflow/python/_pywrap_tensorflow_internal.so": FIXTURES / library,
    }
    broken.distribution("tensorflow", "2.11.1", files)


def libraries(broken: Broken, compiled: Callable[..., Path], sonames: tuple[str, ...]) -> None:
    files: dict[str, Path | str] = {}
    for soname in sonames:
        name = soname.replace(".", "_")
        files[f"nvidia/x/lib/{soname}"] = compiled(name, f"int f_{name};", f"-Wl,-soname,{soname}")
    broken.distribution("nvidia-x", "1.0", files)


def test_tensorflow_that_compiles_ptx(
    broken: Broken, machine: MachineFacts, compiled: Callable[..., Path]
) -> None:
    """TensorFlow 2.11.1 on 12.0: told once, with its own words; a chip that it has code for is not told."""
    tensorflow(broken, "ptx-only.so")
    libraries(broken, compiled, TENSORFLOW_LIBRARIES)
    found = examine(machine, broken.root, RTX_5090)
    assert ids(found) == ["engine-compiles-ptx"]
    assert found[0].severity == "warning"
    assert "compute capability 12.0. CUDA kernels will be jit-compiled from PTX" in found[0].error_text
    # No published TensorFlow has machine code for 12.0, one has for 9.0: the fixes say so.
    assert found[0].fix == "export CUDA_VISIBLE_DEVICES=-1"
    assert "tensorflow==2.21.0" in examine(machine, broken.root, H200)[0].fix


def test_tensorflow_on_its_own_chip(
    broken: Broken, machine: MachineFacts, compiled: Callable[..., Path]
) -> None:
    tensorflow(broken, "many.so")
    libraries(broken, compiled, TENSORFLOW_LIBRARIES)
    assert examine(machine, broken.root, RTX_5090) == []


def test_tensorflow_without_cuda_libraries(broken: Broken, machine: MachineFacts) -> None:
    tensorflow(broken, "many.so")
    (finding,) = examine(machine, broken.root, bare_system=True)
    assert (finding.id, finding.severity, finding.subject) == (
        "engine-without-libraries",
        "warning",
        "tensorflow",
    )
    assert "Cannot dlopen some GPU libraries" in finding.error_text
    assert {row.value for row in finding.evidence if row.what == "not found"} == set(TENSORFLOW_LIBRARIES)
    assert "nvidia-cudnn-cu11==8.*" in finding.fix


def test_a_tensorflow_for_the_cpu_is_well(broken: Broken, machine: MachineFacts) -> None:
    tensorflow(broken, "many.so", cuda=False)
    assert examine(machine, broken.root, bare_system=True) == []


@pytest.mark.parametrize(
    ("driver", "cuda", "expected"),
    [("470.57.02", (11, 4), []), ("440.33.01", (10, 2), ["engine-driver-too-old"])],
)
def test_the_driver_of_an_engine(
    driver: str,
    cuda: tuple[int, int],
    expected: list[str],
    broken: Broken,
    machine: MachineFacts,
    compiled: Callable[..., Path],
) -> None:
    tensorflow(broken, "many.so")
    libraries(broken, compiled, TENSORFLOW_LIBRARIES)
    assert ids(examine(machine, broken.root, driver=driver, driver_cuda=cuda)) == expected


def test_onnxruntime_names_its_libraries(
    broken: Broken, machine: MachineFacts, compiled: Callable[..., Path]
) -> None:
    stubs = [
        compiled(n, f"void {n}(void) {{}}", f"-Wl,-soname,{s}")
        for n, s in (("cudart", "libcudart.so.11.0"), ("cudnn", "libcudnn.so.8"), ("cuda", "libcuda.so.1"))
    ]
    provider = compiled("provider", "void cudart(void), cudnn(void), cuda(void); void g(void) { cudart(); cudnn(); cuda(); }",
                        *map(str, stubs))  # fmt: skip
    files: dict[str, Path | str] = {"onnxruntime/capi/libonnxruntime_providers_cuda.so": provider}
    broken.distribution("onnxruntime-gpu", "1.18.1", files)
    (engine,) = read_engines(read_environment(broken.root))
    assert (engine.cuda, set(engine.opens)) == ("11", {"libcudart.so.11.0", "libcudnn.so.8"})
    (finding,) = examine(machine, broken.root, bare_system=True)
    assert finding.error_text.startswith("Failed to create CUDAExecutionProvider")
    assert "nvidia-cudnn-cu11==8.*" in finding.fix


@pytest.mark.parametrize(("plugin", "expected"), [("0.10.2", ["jax-plugin-mismatch"]), ("0.6.2", [])])
def test_jax_plugin_of_another_version(
    plugin: str, expected: list[str], broken: Broken, machine: MachineFacts, compiled: Callable[..., Path]
) -> None:
    broken.distribution("jaxlib", "0.6.2")
    broken.distribution("jax-cuda12-plugin", plugin)
    twelve = (
        "libcublas.so.12",
        "libcublasLt.so.12",
        "libcufft.so.11",
        "libcusolver.so.11",
        "libcusparse.so.12",
    )
    libraries(broken, compiled, (*twelve, "libcudnn.so.9"))
    assert ids(examine(machine, broken.root)) == expected


@pytest.mark.parametrize(("nvcc", "expected"), [("12.6.85", ["ptxas-too-old"]), ("12.9.86", [])])
def test_ptxas_that_predates_the_chip(
    nvcc: str, expected: list[str], broken: Broken, machine: MachineFacts
) -> None:
    broken.distribution("jaxlib", "0.6.2")
    broken.distribution("jax-cuda12-plugin", "0.6.2")
    broken.distribution("nvidia-cuda-nvcc-cu12", nvcc)
    found = examine(machine, broken.root, RTX_5090)
    assert [row.id for row in found if row.id != "engine-without-libraries"] == expected


def test_two_wheels_of_cupy(broken: Broken, machine: MachineFacts) -> None:
    broken.distribution("cupy-cuda11x", "13.0.0")
    broken.distribution("cupy-cuda12x", "13.0.0")
    assert "several-cupy" in ids(examine(machine, broken.root))


@pytest.mark.parametrize(
    ("driver_cuda", "expected"),
    [((11, 4), "ptx-newer-than-driver"), ((13, 0), "ptx-only")],
)
def test_ptx_that_the_driver_cannot_compile(
    driver_cuda: tuple[int, int], expected: str, broken: Broken, machine: MachineFacts
) -> None:
    broken.distribution("fast-thing", "1.0", {"fast_thing/_C.so": FIXTURES / "ptx-only.so"})
    found = examine(machine, broken.root, RTX_5090, driver="580.65.06", driver_cuda=driver_cuda)
    (finding,) = found
    assert finding.id == expected
    if expected == "ptx-newer-than-driver":
        assert finding.severity == "error"
        assert "unsupported toolchain" in finding.error_text
        assert any(row.what == "PTX ISA" for row in finding.evidence)


@pytest.mark.parametrize(
    "name", ["tests/data/jitlink.ptx", "tests/data/a.cubin", "lib/libx.a", "bin/nvfuser_tests"]
)
def test_only_libraries_that_load_are_judged(name: str, broken: Broken, machine: MachineFacts) -> None:
    source = FIXTURES / ("unlinked.o" if name.endswith(".a") else "two-units.so")
    broken.distribution("fast-thing", "1.0", {f"fast_thing/{name}": source})
    assert examine(machine, broken.root, H200) == []


def test_nvidias_libraries_are_no_errors(broken: Broken, machine: MachineFacts) -> None:
    """Also where another distribution bundles them, as the wheels of PyTorch's own index do."""
    broken.torch(library=FIXTURES / "many.so")
    bundled = {"fast_thing/libcublas-1a2b.so.12": FIXTURES / "two-units.so"}
    broken.distribution("fast-thing", "1.0", bundled)
    assert ids(examine(machine, broken.root, H200), "error") == []


def test_files_of_a_distribution_are_told_together(broken: Broken, machine: MachineFacts) -> None:
    files: dict[str, Path | str] = {f"fast_thing/_{n}.so": FIXTURES / "two-units.so" for n in range(4)}
    broken.distribution("fast-thing", "1.0", files)
    (finding,) = examine(machine, broken.root, H200)
    assert finding.subject == "fast-thing"
    assert len({row.file for row in finding.evidence}) == 4
