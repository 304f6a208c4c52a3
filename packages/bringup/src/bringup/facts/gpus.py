"""GPUs and their driver through NVML: no toolkit and no torch needed, none found is a normal answer."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pynvml

from bringup.binaries.architectures import ComputeCapability


@dataclass(frozen=True)
class GpuFacts:
    """One NVIDIA GPU. `memory` in bytes."""

    index: int
    name: str
    capability: ComputeCapability
    memory: int
    uuid: str


@dataclass(frozen=True)
class DriverFacts:
    """The NVIDIA driver.

    Attributes:
        version: for example "580.159.04"; under WSL2 it is Windows' driver.
        cuda: newest CUDA version whose PTX it compiles, (major, minor).
    """

    version: str
    cuda: tuple[int, int]


@dataclass(frozen=True)
class GpuSurvey:
    """What NVML and the device files told.

    Attributes:
        gpus: the NVIDIA GPUs that NVML lists, in its order.
        driver: None where NVML is absent or silent.
        visible: CUDA_VISIBLE_DEVICES as set, None where it is not.
        trouble: why NVML did not answer although a GPU seems to be there, else None.
        others: other vendors' GPUs that were seen: "amd", "apple".
    """

    gpus: tuple[GpuFacts, ...]
    driver: DriverFacts | None
    visible: str | None
    trouble: str | None
    others: tuple[str, ...]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _gpu(index: int) -> GpuFacts:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return GpuFacts(
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        capability=ComputeCapability(major, minor),
        memory=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
    )


def _device_files_present() -> bool:
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def _other_vendors() -> tuple[str, ...]:
    others = []
    if Path("/dev/kfd").exists():
        others.append("amd")
    if sys.platform == "darwin":
        others.append("apple")
    return tuple(others)


def read_gpus() -> GpuSurvey:
    """Ask NVML. A machine without driver or GPU gives an empty survey, never an error."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    others = _other_vendors()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        trouble = str(error) if _device_files_present() else None
        return GpuSurvey((), None, visible, trouble, others)
    try:
        number = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        driver = DriverFacts(
            version=_text(pynvml.nvmlSystemGetDriverVersion()), cuda=(number // 1000, number % 1000 // 10)
        )
        gpus = tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
        return GpuSurvey(gpus, driver, visible, None, others)
    except pynvml.NVMLError as error:
        return GpuSurvey((), None, visible, str(error), others)
    finally:
        pynvml.nvmlShutdown()


def usable_gpus(survey: GpuSurvey) -> tuple[GpuFacts, ...]:
    """The GPUs that CUDA programs started from here will see (CUDA_VISIBLE_DEVICES applied)."""
    if survey.visible is None:
        return survey.gpus
    chosen = []
    for item in filter(None, re.split(r"\s*,\s*", survey.visible.strip())):
        matches = [gpu for gpu in survey.gpus if item == str(gpu.index) or gpu.uuid.startswith(item)]
        if not matches:
            break  # CUDA stops reading the list at the first entry that names nothing.
        chosen.append(matches[0])
    return tuple(chosen)
