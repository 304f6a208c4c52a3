"""Rules about machine code and PTX: what the loader will find for a GPU, distribution by distribution."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bringup.binaries.architectures import ComputeCapability
from bringup.binaries.compatibility import Verdict
from bringup.binaries.report import BinaryReport
from bringup.catalog import Catalog
from bringup.facts.environment import EnvironmentFacts
from bringup.facts.environment_engines import read_engines
from bringup.findings.model import Evidence, Examined, Finding, NamedGpu, Severity
from bringup.findings.repairs import TORCH_LIBRARIES, driver_fix, extension_fix, torch_fix

NO_IMAGE = "CUDA error: no kernel image is available for execution on the device"
PTX_TOO_NEW = "CUDA error: the provided PTX was compiled with an unsupported toolchain."
_LIBRARY = re.compile(r"\.(?:so(?:\.[\w.+-]+)?|pyd|dll)$", re.IGNORECASE)
# NVIDIA's own libraries, wherever they are bundled (wheels of the +cu118 builds carry them in torch/lib).
_NVIDIA_LIBRARY = re.compile(
    r"(?:lib)?(?:cu(?:blas|dnn|fft|sparse|rand|solver|tensor|pti|dart|file|dss|quantum|statevec|densitymat)"
    r"|nv(?:jpeg|shmem|rtc|jitlink|infer|blas|perf|fatbin|math|comp|imgcodec)|nccl|npp)",
    re.IGNORECASE,
)
# «_cuda128.so», «/sm90/», «-cu12»: which build of one library a file is.
_BUILT_FOR = re.compile(r"(?<![a-z])(?:cuda|cu|sm_?|arch_?)\d+[af]?(?![a-z])", re.IGNORECASE)
_FARES = ("machine-code", "ptx", "partial", "no")


def owner_name(environment: EnvironmentFacts, report: BinaryReport) -> str:
    """The distribution that a file belongs to; the file's own name where none recorded it."""
    owner = environment.owner(report.path)
    return owner.key if owner else Path(report.path).name


def is_loadable(report: BinaryReport) -> bool:
    """A shared library that a process can load; neither data, nor an object to link, nor a program."""
    return report.kind in ("elf", "pe") and not report.relocatable and bool(_LIBRARY.search(report.path))


def is_nvidia_library(subject: str, report: BinaryReport) -> bool:
    """cuBLAS, cuDNN and their like: they choose among their kernels and ship what their chips need."""
    return subject.startswith("nvidia-") or bool(_NVIDIA_LIBRARY.match(Path(report.path).name))


def is_torch_itself(report: BinaryReport) -> bool:
    """Whether the file is torch's main CUDA library."""
    return Path(report.path).name in TORCH_LIBRARIES


def importance(environment: EnvironmentFacts, report: BinaryReport) -> Severity:
    """Lacking an image in torch's main library or an extension stops the user; side libraries may not."""
    subject = owner_name(environment, report)
    if is_nvidia_library(subject, report):
        return "warning"
    if subject == "torch" and not is_torch_itself(report):
        return "warning"
    return "error"


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
    torch = examined.environment.torch if examined.environment else None
    # torch's companions and NVIDIA's libraries come with a torch; they are changed together.
    with_torch = subject in ("torchvision", "torchaudio") or subject.startswith("nvidia-")
    if subject == "torch" or (with_torch and torch):
        return torch_fix(examined, gpu)
    return extension_fix(examined, subject, gpu)


def _kind(examined: Examined, report: BinaryReport, gpu: NamedGpu) -> tuple[str, Severity, Verdict] | None:
    """(id, severity, verdict) of one file on one chip; None where it is well."""
    environment = examined.environment
    assert environment is not None
    driver_cuda = examined.driver.cuda if examined.driver else None
    verdict = report.runs_on(gpu.capability, driver_cuda)
    if verdict.status == "machine-code":
        return None
    subject = owner_name(environment, report)
    nvidia = is_nvidia_library(subject, report)
    severity = importance(environment, report)
    if nvidia and verdict.status != "no":
        return None
    if report.runs_on(gpu.capability).without < verdict.without:
        return "ptx-newer-than-driver", severity, verdict
    if verdict.status == "no":
        return "no-kernel-image", severity, verdict
    return (
        ("ptx-only", "info", verdict)
        if verdict.status == "ptx"
        else ("partial-kernel-images", "warning", verdict)
    )


def _error_text(
    id: str, subject: str, severity: Severity, gpu: NamedGpu, report: BinaryReport, catalog: Catalog
) -> str:
    if id == "ptx-only":
        return ""
    if id == "ptx-newer-than-driver":
        return PTX_TOO_NEW
    if subject == "torch" and severity == "error":
        return _torch_warning(gpu, report)
    row = catalog.extension(subject)  # the last line is what one sees first
    return f"{NO_IMAGE}\n{row.error_without_image}" if row and row.error_without_image else NO_IMAGE


Judged = list[tuple[BinaryReport, Severity, Verdict]]
_RANK = {"error": 0, "warning": 1, "info": 2}


def _finding(examined: Examined, id: str, subject: str, gpu: NamedGpu, rows: Judged) -> Finding:
    """All files of one distribution that fare alike on one chip, the one that matters most first."""
    rows = sorted(rows, key=lambda row: _RANK[row[1]])
    report, severity, _ = rows[0]
    parameters = {"gpu": gpu.name, "sm": gpu.capability.sm, "file": Path(report.path).name}
    parameters["carried"] = " ".join(report.machine_code) or "–"
    parameters["count"] = str(sum(verdict.without for _, _, verdict in rows))
    if len(rows) > 1:
        parameters["file"] += f" (+{len(rows) - 1})"
    evidence = tuple(part for report, _, verdict in rows for part in _evidence(report, verdict))
    fix = _fix(subject, gpu, examined)
    if id == "ptx-newer-than-driver":
        assert examined.driver is not None
        parameters["cuda"] = ".".join(map(str, examined.driver.cuda))
        newest = max((ptx for _, ptx in _ptx_versions(report)), default=(0, 0))
        evidence += (
            Evidence(report.path, "PTX ISA", ".".join(map(str, newest))),
            Evidence("NVML", "driver version", f"{examined.driver.version} (CUDA {parameters['cuda']})"),
        )
        fix = driver_fix(examined, "0")
    text = _error_text(id, subject, severity, gpu, report, examined.catalog)
    return Finding(id, severity, subject, evidence, text, fix, parameters)


def _ptx_versions(report: BinaryReport) -> Iterator[tuple[str, tuple[int, int]]]:
    for images in report.images:
        for row in images.ptx:
            if row.isa:
                yield row.architecture.compute, row.isa


def _variant(path: str) -> str:
    """A path without the CUDA release or the architecture in it: the package loads one file of several."""
    return _BUILT_FOR.sub("#", path)


def chosen_libraries(reports: Sequence[BinaryReport], chip: ComputeCapability) -> list[BinaryReport]:
    """The reports without those of which a variant fares better on the chip (bitsandbytes ships one library
    for each CUDA release, sgl-kernel one for each architecture)."""
    fares = {report.path: _FARES.index(report.runs_on(chip).status) for report in reports}
    best: dict[str, int] = {}
    for path, rank in fares.items():
        best[_variant(path)] = min(rank, best.get(_variant(path), rank))
    return [report for report in reports if fares[report.path] == best[_variant(report.path)]]


def _eased(rows: Judged, serves: bool) -> Judged:
    """Files of code for certain chips alone are no error where the distribution has others that run."""
    return [
        (
            report,
            "warning" if serves and all(images.optional for images in report.images) else severity,
            verdict,
        )
        for report, severity, verdict in rows
    ]


def kernel_images(examined: Examined) -> Iterator[Finding]:
    """Every library with device code against every GPU that is asked about; one finding a distribution."""
    environment = examined.environment
    if environment is None:
        return
    # What other engines compile at start is told by their own rule.
    engines = {engine.distribution for engine in read_engines(environment)}
    reports = [row for row in environment.binaries if row.has_device_code and is_loadable(row)]
    groups: dict[tuple[str, str, NamedGpu], Judged] = {}
    serving: set[tuple[str, NamedGpu]] = set()
    for gpu in examined.gpus:
        for report in chosen_libraries(reports, gpu.capability):
            owner = owner_name(environment, report)
            judged = _kind(examined, report, gpu)
            if judged is None or judged[0] == "ptx-only":
                serving.add((owner, gpu))
            if judged is None or (owner in engines and judged[0] in ("ptx-only", "partial-kernel-images")):
                continue
            id, severity, verdict = judged
            groups.setdefault((id, owner, gpu), []).append((report, severity, verdict))
    for (id, subject, gpu), rows in groups.items():
        yield _finding(examined, id, subject, gpu, _eased(rows, (subject, gpu) in serving))


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
        fix = torch_fix(examined, gpu)
        parameters = {"gpu": gpu.name, "version": torch.version}
        yield Finding("cpu-build-of-torch", "error", "torch", evidence, text, fix, parameters)
