"""Small CUDA projects of every kind that `bringup build` knows, written into a folder for a test."""

from __future__ import annotations

from pathlib import Path

MODULE = """\
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <cuda_runtime.h>

__global__ void scale(float* values, float factor) { values[threadIdx.x] *= factor; }

static PyObject* runtime_version(PyObject*, PyObject*) {
    int version = 0;
    cudaRuntimeGetVersion(&version);
    return PyLong_FromLong(version);
}
void launch(float* values) { scale<<<1, 32>>>(values, 2.0f); }

static PyMethodDef methods[] = {{"runtime_version", runtime_version, METH_NOARGS, ""}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "NAME", "", -1, methods};
PyMODINIT_FUNC PyInit_NAME() { return PyModule_Create(&definition); }
"""

KERNEL = """\
__global__ void shift(float* values) { values[threadIdx.x] += 1; }
extern "C" void launch_shift(float* values) { shift<<<1, 32>>>(values); }
"""

# What many research projects do: nvcc is called from setup.py, with flags of their own.
SETUP = """\
import os, subprocess, sysconfig
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class Nvcc(build_ext):
    def build_extension(self, extension):
        output = self.get_ext_fullpath(extension.name)
        os.makedirs(os.path.dirname(output), exist_ok=True)
        nvcc = os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "nvcc")
        include = sysconfig.get_path("include")
        flags = ["-shared", "-Xcompiler", "-fPIC", "-I" + include, FLAGS]
        subprocess.check_call([nvcc, *filter(None, flags), *extension.sources, "-o", output])


setup(name="NAME", version="1.0", ext_modules=[Extension("NAME", SOURCES)], cmdclass={"build_ext": Nvcc})
"""

SCIKIT = """\
[build-system]
requires = ["scikit-build-core>=0.10"]
build-backend = "scikit_build_core.build"

[project]
name = "NAME"
version = "2.0"
"""

CMAKE_MODULE = """\
cmake_minimum_required(VERSION 3.18)
project(NAME LANGUAGES CXX CUDA)
find_package(Python COMPONENTS Interpreter Development.Module REQUIRED)
Python_add_library(NAME MODULE WITH_SOABI module.cu)
install(TARGETS NAME DESTINATION .)
"""

CMAKE_LIBRARY = """\
cmake_minimum_required(VERSION 3.18)
project(NAME VERSION 3.1 LANGUAGES CXX)
enable_language(CUDA)
add_library(NAME SHARED kernel.cu)
"""


# A torch extension: what most research code has. The kernel knows nothing of torch.
TORCH_SETUP = """\
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CUDAExtension

extension = CUDAExtension("NAME", ["binding.cpp", "kernel.cu"])
setup(name="NAME", version="1.0", ext_modules=[extension], cmdclass={"build_ext": BuildExtension})
"""

TORCH_BINDING = """\
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <torch/csrc/utils/pybind.h>

const char* scale_on_device(float* values, long count, float factor);

at::Tensor scale(at::Tensor values, double factor) {
    at::Tensor result = values.contiguous().clone();
    const char* error = scale_on_device(result.data_ptr<float>(), result.numel(), factor);
    TORCH_CHECK(error == nullptr, "CUDA kernel failed : ", error);
    return result;
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) { module.def("scale", &scale); }
"""

TORCH_KERNEL = """\
#include <cuda_runtime.h>

__global__ void scale_kernel(float* values, long count, float factor) {
    long index = blockIdx.x * static_cast<long>(blockDim.x) + threadIdx.x;
    if (index < count) values[index] *= factor;
}

const char* scale_on_device(float* values, long count, float factor) {
    scale_kernel<<<(count + 255) / 256, 256>>>(values, count, factor);
    cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
"""


def _fill(text: str, name: str) -> str:
    return text.replace("NAME", name)


def setuptools_project(folder: Path, name: str = "plain_cuda", flags: str = "", units: int = 1) -> Path:
    """setup.py that calls nvcc. `flags`: one more word of its own for nvcc."""
    folder.mkdir(parents=True)
    sources = ["module.cu", *(f"unit{number}.cu" for number in range(units - 1))]
    (folder / "module.cu").write_text(_fill(MODULE, name))
    for number, source in enumerate(sources[1:]):
        (folder / source).write_text(KERNEL.replace("shift", f"shift{number}"))
    text = _fill(SETUP, name).replace("FLAGS", repr(flags)).replace("SOURCES", repr(sources))
    (folder / "setup.py").write_text(text)
    return folder


def scikit_project(folder: Path, name: str = "by_scikit", cmake: str = CMAKE_MODULE) -> Path:
    """pyproject.toml with scikit-build-core, and CMake."""
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(_fill(SCIKIT, name))
    (folder / "CMakeLists.txt").write_text(_fill(cmake, name))
    (folder / "module.cu").write_text(_fill(MODULE, name))
    return folder


def cmake_project(folder: Path, name: str = "only_cmake", cmake: str = CMAKE_LIBRARY) -> Path:
    """CMakeLists.txt alone."""
    folder.mkdir(parents=True)
    (folder / "CMakeLists.txt").write_text(_fill(cmake, name))
    (folder / "kernel.cu").write_text(KERNEL)
    (folder / "module.cu").write_text(_fill(MODULE, name))
    return folder


def torch_project(folder: Path, name: str = "torch_scale") -> Path:
    """setup.py with torch's CUDAExtension; needs a torch with CUDA."""
    folder.mkdir(parents=True)
    (folder / "setup.py").write_text(_fill(TORCH_SETUP, name))
    (folder / "binding.cpp").write_text(TORCH_BINDING)
    (folder / "kernel.cu").write_text(TORCH_KERNEL)
    return folder
