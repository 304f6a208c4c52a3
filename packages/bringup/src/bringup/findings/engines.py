"""Rules about TensorFlow, ONNX Runtime, JAX and CuPy, where they are installed.

Sources: TensorFlow's gpu_device.cc (its warning about missing machine code); jaxlib's plugin_support (the
versions of plugin and jaxlib must be equal); XLA's ptxas check; CuPy's check of several installations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.version import InvalidVersion, Version

from bringup.binaries.report import BinaryReport
from bringup.catalog.schema import Toolkit
from bringup.facts.environment import EnvironmentFacts
from bringup.facts.environment_engines import EngineFacts, cupy_distributions, read_engines
from bringup.findings.kernel_images import is_loadable, is_nvidia_library
from bringup.findings.model import Evidence, Examined, Finding, NamedGpu
from bringup.findings.repairs import driver_fix, pip

_WITHOUT_LIBRARIES = {
    "TensorFlow": "Cannot dlopen some GPU libraries. Skipping registering GPU devices...",
    "ONNX Runtime": "Failed to create CUDAExecutionProvider.",
    "JAX": "An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is not installed.",
}
_TENSORFLOW_COMPILES = (
    "TensorFlow was not built with CUDA kernel binaries compatible with compute capability {capability}. "
    "CUDA kernels will be jit-compiled from PTX, which could take 30 minutes or longer."
)


def _is_found(library: str, environment: EnvironmentFacts, names: set[str]) -> bool:
    folders = (*environment.loader_folders, f"{environment.root}/lib")
    return library in names or any(_exists(folder, library) for folder in folders)


def _exists(folder: str, library: str) -> bool:
    return (Path(folder) / library).exists()


def engine_without_libraries(examined: Examined) -> Iterator[Finding]:
    """CUDA libraries that an engine opens by name are nowhere: it says so once and runs on the CPU."""
    environment = examined.environment
    if environment is None:
        return
    names = {report.path.rsplit("/", 1)[-1] for report in environment.binaries}
    names |= {report.soname for report in environment.binaries if report.soname}
    for engine in read_engines(environment):
        missing = [library for library in engine.opens if not _is_found(library, environment, names)]
        if not missing:
            continue
        evidence = (
            Evidence(engine.record, "built for CUDA", engine.recorded),
            *(Evidence(environment.root, "not found", library) for library in missing),
        )
        rows = (examined.catalog.library(library, engine.cuda_major) for library in missing)
        wheels = dict.fromkeys(f'"{row.wheel}"' for row in rows if row and row.wheel)
        fix = (
            f"{pip(examined)} install {' '.join(wheels)}" if wheels else "apt-get install nvidia-cuda-toolkit"
        )
        parameters = {"name": engine.name, "version": engine.version, "cuda": engine.cuda}
        parameters["libraries"] = ", ".join(missing)
        error = _WITHOUT_LIBRARIES[engine.name]
        subject = engine.distribution
        yield Finding("engine-without-libraries", "warning", subject, evidence, error, fix, parameters)


def _gpu_libraries(environment: EnvironmentFacts, engine: EngineFacts) -> list[BinaryReport]:
    owned = environment.distribution(engine.distribution)
    paths = set(owned.binaries) if owned else set()
    return [
        report
        for report in environment.binaries
        if report.path in paths
        and report.has_device_code
        and is_loadable(report)
        and not is_nvidia_library(engine.distribution, report)
    ]


def _jit_fix(examined: Examined, engine: EngineFacts, gpu: NamedGpu) -> str:
    build = examined.catalog.engine_with_machine_code(engine.distribution, gpu.capability)
    if build and _version(build.version) != _version(engine.version):
        return f"{pip(examined)} install {engine.distribution}=={build.version}"
    # No published wheel has machine code for the chip; hiding the GPU keeps that program on the CPU.
    windows = (
        (examined.environment.python.platform or "").startswith("win") if examined.environment else False
    )
    return f"{'set' if windows else 'export'} CUDA_VISIBLE_DEVICES=-1"


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def engine_compiles_ptx(examined: Examined) -> Iterator[Finding]:
    """An engine without machine code for the chip: its PTX is compiled at start, or it falls to the CPU."""
    environment = examined.environment
    if environment is None or not examined.gpus:
        return
    for engine in read_engines(environment):
        reports = _gpu_libraries(environment, engine)
        for gpu in examined.gpus:
            verdicts = [(report, report.runs_on(gpu.capability)) for report in reports]
            compiled = [(report, verdict) for report, verdict in verdicts if verdict.by_ptx]
            if not compiled or any(verdict.status == "no" for _, verdict in verdicts):
                continue
            report, verdict = max(compiled, key=lambda row: row[1].by_ptx)
            evidence = (
                Evidence(report.path, "machine code", " ".join(report.machine_code) or "none"),
                Evidence(report.path, "PTX", " ".join(report.ptx)),
                Evidence(report.path, "containers compiled from PTX", str(verdict.by_ptx)),
                Evidence(report.path, "containers without an image", str(verdict.without)),
            )
            capability = gpu.capability
            text = ""
            if engine.name == "TensorFlow":
                text = _TENSORFLOW_COMPILES.format(capability=capability)
            parameters = {"name": engine.name, "version": engine.version, "gpu": gpu.name}
            parameters |= {"sm": capability.sm, "count": str(verdict.by_ptx)}
            fix = _jit_fix(examined, engine, gpu)
            subject = engine.distribution
            yield Finding("engine-compiles-ptx", "warning", subject, evidence, text, fix, parameters)


def engine_driver(examined: Examined) -> Iterator[Finding]:
    """An engine's CUDA needs a newer driver than the one that is loaded."""
    environment, driver = examined.environment, examined.driver
    if environment is None or driver is None:
        return
    for engine in read_engines(environment):
        needed = examined.catalog.minimum_driver(engine.cuda, windows=examined.windows_driver)
        if needed is None or Version(driver.version) >= Version(needed):
            continue
        evidence = (
            Evidence(engine.record, "built for CUDA", engine.recorded),
            Evidence("NVML", "driver version", driver.version),
        )
        parameters = {"name": engine.name, "cuda": engine.cuda, "needed": needed, "driver": driver.version}
        fix = driver_fix(examined, needed)
        text = "CUDA driver version is insufficient for CUDA runtime version"
        yield Finding("engine-driver-too-old", "error", engine.distribution, evidence, text, fix, parameters)


def jax_versions(examined: Examined) -> Iterator[Finding]:
    """JAX ignores a CUDA plugin whose version is not jaxlib's."""
    environment = examined.environment
    jaxlib = environment.distribution("jaxlib") if environment else None
    if environment is None or jaxlib is None or jaxlib.version is None:
        return
    for row in environment.distributions:
        if not re.fullmatch(r"jax-cuda\d\d-plugin", row.key) or row.version is None:
            continue
        here, there = _version(jaxlib.version), _version(row.version)
        if here is None or there is None or here.release == there.release:
            continue
        evidence = (
            Evidence(row.location, "Version", row.version),
            Evidence(jaxlib.location, "Version", jaxlib.version),
        )
        text = (
            f"JAX plugin {row.key.replace('-', '_')} version {row.version} is installed, but it is not "
            f"compatible with the installed jaxlib version {jaxlib.version}, so it will not be used."
        )
        parameters = {"name": row.name, "version": row.version, "jaxlib": jaxlib.version}
        fix = f"{pip(examined)} install {row.key}=={here.public}"
        yield Finding("jax-plugin-mismatch", "warning", row.key, evidence, text, fix, parameters)


def _toolkit_of(examined: Examined, version: str) -> Toolkit | None:
    return examined.catalog.toolkit(".".join(version.split(".")[:2]))


def ptxas_too_old(examined: Examined) -> Iterator[Finding]:
    """JAX compiles with the ptxas of NVIDIA's wheel, which may predate the chip."""
    environment = examined.environment
    if environment is None or not any(row.name == "JAX" for row in read_engines(environment)):
        return
    for name in ("nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc-cu11", "nvidia-cuda-nvcc"):
        row = environment.distribution(name)
        toolkit = _toolkit_of(examined, row.version) if row and row.version else None
        if row is None or row.version is None or toolkit is None:
            continue
        for gpu in examined.gpus:
            newest = max(int(re.sub(r"\D", "", code)) for code in toolkit.architectures)
            if gpu.capability.number <= newest:
                continue
            evidence = (
                Evidence(row.location, "Version", row.version),
                Evidence("catalog", f"CUDA {toolkit.version}", f"newest architecture sm_{newest}"),
            )
            text = "Falling back to the CUDA driver for PTX compilation; "
            text += f"ptxas does not support CC {gpu.capability}"
            parameters = {"name": row.name, "version": row.version, "gpu": gpu.name, "sm": gpu.capability.sm}
            fix = f"{pip(examined)} install --upgrade {row.key}"
            yield Finding("ptxas-too-old", "warning", row.key, evidence, text, fix, parameters)


def several_cupy(examined: Examined) -> Iterator[Finding]:
    """Wheels of CuPy for several CUDA releases overwrite one another's files."""
    environment = examined.environment
    rows = list(cupy_distributions(environment)) if environment else []
    if len(rows) < 2:
        return
    evidence = tuple(Evidence(row.location, "Version", row.version or "") for row in rows)
    names = ", ".join(row.name for row in rows)
    text = "CuPy may not function correctly because multiple CuPy packages are installed"
    torch = environment.torch if environment else None
    kept = next(
        (row.name for row in rows if torch and torch.cuda and f"cuda{torch.cuda[:2]}" in row.name), ""
    )
    kept = kept or max(row.name for row in rows)
    fix = (
        f"{pip(examined)} uninstall -y {' '.join(row.name for row in rows)} && {pip(examined)} install {kept}"
    )
    yield Finding("several-cupy", "warning", "cupy", evidence, text, fix, {"names": names})
