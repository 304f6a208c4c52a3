"""Rules about machine code and PTX: what the loader will find for a GPU, file by file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bringup.binaries.compatibility import Verdict
from bringup.binaries.report import BinaryReport
from bringup.facts.environment import EnvironmentFacts
from bringup.findings.model import Evidence, Examined, Finding, NamedGpu, Severity

NO_IMAGE = "CUDA error: no kernel image is available for execution on the device"
_TORCH_ITSELF = ("libtorch_cuda.so", "torch_cuda.dll", "libtorch_cuda_cu.so", "libtorch_cuda_cpp.so")


def owner_name(environment: EnvironmentFacts, report: BinaryReport) -> str:
    """The distribution that a file belongs to; the file's own name where none recorded it."""
    owner = environment.owner(report.path)
    return owner.key if owner else Path(report.path).name


def _evidence(report: BinaryReport, verdict: Verdict) -> tuple[Evidence, ...]:
    code = " ".join(report.machine_code_in_all or report.machine_code) or "none"
    carried = [
        Evidence(report.path, "machine code", code),
        Evidence(report.path, "PTX", " ".join(report.ptx) or "none"),
    ]
    if verdict.status == "partial":
        carried.append(Evidence(report.path, "containers without an image", str(verdict.without)))
    return tuple(carried)


def _torch_warning(gpu: NamedGpu, report: BinaryReport) -> str:
    """What torch prints at start and raises at the first kernel."""
    supported = " ".join(report.machine_code)
    return (
        f"{gpu.name} with CUDA capability {gpu.capability.sm} is not compatible with the current PyTorch "
        f"installation.\nThe current PyTorch install supports CUDA capabilities {supported}.\n{NO_IMAGE}"
    )


def _fix(subject: str, gpu: NamedGpu, examined: Examined) -> str:
    if subject == "torch":
        return torch_fix(examined, gpu)
    if examined.catalog.portable_replacement(subject):
        return f'portable-kernels install --shim {subject.replace("-", "_")} --env "{_root(examined)}"'
    return f'bringup build {subject} --gpu {gpu.capability.sm} --env "{_root(examined)}"'


def torch_fix(examined: Examined, gpu: NamedGpu | None = None) -> str:
    """The command that installs a torch which serves the GPU (without one: any newest)."""
    capability = gpu.capability if gpu else None
    build = examined.catalog.recommended_torch(capability)
    if build is None:
        return "bringup up RECIPE --cpu"
    index = f" --index-url {build.index}" if build.index else ""
    return f'"{_root(examined)}/bin/python" -m pip install torch=={build.version}{index}'


def _root(examined: Examined) -> str:
    return examined.environment.root if examined.environment else "."


def is_torch_itself(report: BinaryReport) -> bool:
    """Whether the file is torch's main CUDA library."""
    return Path(report.path).name in _TORCH_ITSELF


def importance(environment: EnvironmentFacts, report: BinaryReport) -> Severity:
    """Lacking an image in torch's main library or an extension stops the user; side libraries may not."""
    subject = owner_name(environment, report)
    if subject.startswith("nvidia-"):
        return "warning"
    if subject == "torch" and not is_torch_itself(report):
        return "warning"
    return "error"


def _judge(examined: Examined, report: BinaryReport, gpu: NamedGpu) -> Finding | None:
    environment = examined.environment
    assert environment is not None
    verdict = report.runs_on(gpu.capability, examined.driver.cuda if examined.driver else None)
    if verdict.status == "machine-code":
        return None
    subject = owner_name(environment, report)
    parameters = {"gpu": gpu.name, "sm": gpu.capability.sm, "file": Path(report.path).name}
    parameters |= {"carried": " ".join(report.machine_code) or "–", "count": str(verdict.without)}
    evidence = _evidence(report, verdict)
    fix = _fix(subject, gpu, examined)
    if verdict.status == "no":
        severity = importance(environment, report)
        text = _torch_warning(gpu, report) if subject == "torch" and severity == "error" else NO_IMAGE
        return Finding("no-kernel-image", severity, subject, evidence, text, fix, parameters)
    if subject.startswith("nvidia-"):
        return None  # NVIDIA's own libraries choose among their kernels.
    if verdict.status == "ptx":
        return Finding("ptx-only", "info", subject, evidence, "", fix, parameters)
    return Finding("partial-kernel-images", "warning", subject, evidence, NO_IMAGE, fix, parameters)


def kernel_images(examined: Examined) -> Iterator[Finding]:
    """Every file with device code against every GPU that is asked about."""
    if examined.environment is None:
        return
    for report in examined.environment.binaries:
        if report.has_device_code and not report.relocatable:
            for gpu in examined.gpus:
                finding = _judge(examined, report, gpu)
                if finding:
                    yield finding


def cpu_torch_beside_gpu(examined: Examined) -> Iterator[Finding]:
    """A GPU is asked about and the installed torch is a CPU build."""
    environment = examined.environment
    if environment is None or environment.torch is None or not examined.gpus:
        return
    torch = environment.torch
    if torch.cuda is None and torch.hip is None:
        evidence = (Evidence(f"{torch.folder}/version.py", "cuda", "None"),)
        text = "AssertionError: Torch not compiled with CUDA enabled"
        gpu = examined.gpus[0]
        fix = _fix("torch", gpu, examined)
        yield Finding(
            "cpu-build-of-torch",
            "error",
            "torch",
            evidence,
            text,
            fix,
            {"gpu": gpu.name, "version": torch.version},
        )
