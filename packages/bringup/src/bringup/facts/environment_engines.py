"""Other engines than torch: TensorFlow, ONNX Runtime, JAX and CuPy, by what their files say of their build.

Sources: TensorFlow's generated `build_info.py`; the libraries that ONNX Runtime's CUDA provider names; the
names of JAX's plugin and of CuPy's wheels, and NVIDIA's sonames of each CUDA release.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bringup.facts.environment import EnvironmentFacts
from bringup.facts.environment_distributions import Distribution, read_text

_TENSORFLOW = ("tensorflow", "tensorflow-gpu", "tensorflow-intel", "tf-nightly", "tf-nightly-gpu")
_ONNXRUNTIME = ("onnxruntime-gpu", "ort-nightly-gpu", "onnxruntime-gpu-nightly", "onnxruntime-training")
_CUPY = re.compile(r"cupy-cuda(?P<major>1[0-9])[0-9x]")
_JAX = re.compile(r"jax-cuda(?P<major>\d\d)-plugin")
# What TensorFlow and JAX open by name when they start, by CUDA major.
_OPENED = {
    11: "cudart.so.11.0 cublas.so.11 cublasLt.so.11 cufft.so.10 cusolver.so.11 cusparse.so.11",
    12: "cudart.so.12 cublas.so.12 cublasLt.so.12 cufft.so.11 cusolver.so.11 cusparse.so.12",
    13: "cudart.so.13 cublas.so.13 cublasLt.so.13 cufft.so.12 cusolver.so.12 cusparse.so.12",
}


@dataclass(frozen=True)
class EngineFacts:
    """An engine that brings GPU code of its own.

    Attributes:
        name: "TensorFlow", "ONNX Runtime", "JAX", "CuPy".
        distribution: key of the distribution that carries its GPU code.
        cuda: the CUDA that it was built for, "11.2" or "12".
        record: file that says so, `recorded`: its words.
        opens: sonames that it loads by name when it first uses the GPU.
    """

    name: str
    distribution: str
    version: str
    cuda: str
    record: str
    recorded: str
    opens: tuple[str, ...]

    @property
    def cuda_major(self) -> int:
        """12 of "12.5"."""
        return int(self.cuda.split(".")[0])


def read_engines(environment: EnvironmentFacts) -> tuple[EngineFacts, ...]:
    """The engines with GPU code in an environment; builds for the CPU are left out."""
    found = []
    for row in environment.distributions:
        for reader in (_tensorflow, _onnxruntime, _jax, _cupy):
            engine = reader(row, environment)
            if engine is not None:
                found.append(engine)
    return tuple(found)


def _literals(source: str, name: str) -> Any:
    """The value assigned to `name`; the argument where a call wraps it. None if it is no literal."""
    try:
        for node in ast.parse(source).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(node, ast.Assign) and isinstance(target, ast.Name) and target.id == name:
                value = node.value
                return ast.literal_eval(value.args[0] if isinstance(value, ast.Call) else value)
    except (SyntaxError, ValueError, TypeError, IndexError, RecursionError, MemoryError):
        return None
    return None


def _opened(major: int) -> tuple[str, ...]:
    return tuple(f"lib{name}" for name in _OPENED.get(major, "").split())


def _tensorflow(row: Distribution, environment: EnvironmentFacts) -> EngineFacts | None:
    if row.key not in _TENSORFLOW:
        return None
    path = Path(row.site) / "tensorflow" / "python" / "platform" / "build_info.py"
    try:
        told = _literals(read_text(path) or "", "build_info")
        info = dict(told or ())
        cuda = str(info["cuda_version"])
        major = int(cuda.split(".")[0])
    except (OSError, LookupError, TypeError, ValueError):
        return None
    if not info.get("is_cuda_build"):
        return None
    cudnn = (f"libcudnn.so.{info['cudnn_version']}",) if info.get("cudnn_version") else ()
    recorded = f"cuda_version {cuda}"
    opens = (*_opened(major), *cudnn)
    return EngineFacts("TensorFlow", row.key, row.version or "", cuda, str(path), recorded, opens)


def _onnxruntime(row: Distribution, environment: EnvironmentFacts) -> EngineFacts | None:
    if row.key not in _ONNXRUNTIME:
        return None
    for report in environment.binaries:
        if report.path not in row.binaries or "onnxruntime_providers_cuda" not in report.path:
            continue
        runtime = report.cuda_runtime
        if runtime is None or runtime.major is None:
            continue
        opens = tuple(
            library
            for library in report.needed
            # libcuda comes with the driver, which its own rules judge.
            if re.match(r"lib(cu(?!da\.)[a-z]+|nv\w+)\.so", library, re.I)
        )
        recorded = f"DT_NEEDED {runtime.library}"
        cuda = str(runtime.major)
        return EngineFacts("ONNX Runtime", row.key, row.version or "", cuda, report.path, recorded, opens)
    return None


def _jax(row: Distribution, environment: EnvironmentFacts) -> EngineFacts | None:
    match = _JAX.fullmatch(row.key)
    if match is None:
        return None
    major = int(match["major"])
    opens = (*_opened(major)[1:], "libcudnn.so.9")
    return EngineFacts("JAX", row.key, row.version or "", str(major), row.location, row.name, opens)


def _cupy(row: Distribution, environment: EnvironmentFacts) -> EngineFacts | None:
    match = _CUPY.fullmatch(row.key)
    if match is None:
        return None
    # Its modules are linked with what they need: the loader's rule sees what is missing.
    return EngineFacts("CuPy", row.key, row.version or "", match["major"], row.location, row.name, ())


def cupy_distributions(environment: EnvironmentFacts) -> Iterator[Distribution]:
    """Every distribution that installs the package `cupy`."""
    for row in environment.distributions:
        if row.key == "cupy" or _CUPY.fullmatch(row.key):
            yield row
