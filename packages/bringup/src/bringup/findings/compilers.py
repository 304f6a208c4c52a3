"""Rules about compilers, asked only where CUDA code is compiled: nvcc, host compiler, WSL2's memory.

Sources: torch/utils/cpp_extension.py (which nvcc it takes: CUDA_HOME, then PATH, then /usr/local/cuda; and
that it refuses another CUDA major); CUDA's host_config.h (accepted gcc), of which the catalog has the table.
"""

from __future__ import annotations

from collections.abc import Iterator

from bringup.binaries.compatibility import machine_code_runs
from bringup.facts.toolchains import CudaToolkit, HostCompiler
from bringup.findings.model import Evidence, Examined, Finding
from bringup.findings.repairs import cpu_torch

# A build of torchmcubes under WSL2 wants 10 to 15 GB, as its users report.
_WANTED_UNDER_WSL = 15_000_000_000
_USUAL_CUDA = "13.0"  # The first that installs from wheels.


def _compiles(examined: Examined) -> Evidence | None:
    """What says that CUDA code is to be compiled."""
    project = examined.project
    if project is None or examined.toolkits is None or not project.compiling:
        return None
    return Evidence(f"{project.root}/{project.compiling[0]}", "compiles", "CUDA")


def _first_toolkit(examined: Examined) -> CudaToolkit | None:
    """The toolkit that torch's build would take."""
    toolkits = examined.toolkits or ()
    return next((row for row in toolkits if row.origin == "system"), toolkits[0] if toolkits else None)


def _torchs_cuda(examined: Examined) -> str | None:
    """The CUDA that the installed torch was built with."""
    torch = examined.environment.torch if examined.environment else None
    return torch.cuda if torch else None


def _nvcc(toolkit: CudaToolkit) -> Evidence:
    return Evidence(str(toolkit.nvcc), "release", toolkit.release)


def _use(toolkit: CudaToolkit | None, cuda: str, examined: Examined) -> str:
    """The command that has a fitting toolkit used."""
    if toolkit is not None:
        return f'export CUDA_HOME="{toolkit.root}"'
    into = f' --into "{examined.environment.root}"' if examined.environment else ""
    return f"bringup toolkit install {cuda}{into}"


def nvcc_missing(examined: Examined) -> Iterator[Finding]:
    """CUDA code is to be compiled and there is no nvcc."""
    build = _compiles(examined)
    if build is None or _first_toolkit(examined) is not None:
        return
    cuda = _torchs_cuda(examined) or _USUAL_CUDA
    offered = [examined.catalog.offered_toolkit(gpu.capability, cuda) for gpu in examined.gpus]
    cuda = next((row.version for row in offered if row), cuda)
    seen = Evidence("this machine", "nvcc", "neither under CUDA_HOME, nor on PATH, nor in /usr/local/cuda")
    text = "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root."
    fix = _use(None, cuda, examined)
    yield Finding("nvcc-not-found", "warning", "nvcc", (build, seen), text, fix, {})


def nvcc_of_another_cuda(examined: Examined) -> Iterator[Finding]:
    """torch builds extensions only with the CUDA major that it was built with itself."""
    build, toolkit = _compiles(examined), _first_toolkit(examined)
    torch = examined.environment.torch if examined.environment else None
    if build is None or toolkit is None or torch is None or torch.cuda is None:
        return
    major = int(torch.cuda.split(".")[0])
    if toolkit.number[0] == major:
        return
    fitting = next((row for row in examined.toolkits or () if row.number[0] == major), None)
    evidence = (build, _nvcc(toolkit), Evidence(f"{torch.folder}/version.py", "cuda", torch.cuda))
    text = (
        f"RuntimeError: The detected CUDA version ({toolkit.version}) mismatches the version that was used "
        f"to compile PyTorch ({torch.cuda}). Please make sure to use the same CUDA versions."
    )
    parameters = {"nvcc": toolkit.version, "cuda": torch.cuda}
    fix = _use(fitting, torch.cuda, examined)
    yield Finding("nvcc-of-another-cuda", "error", "nvcc", evidence, text, fix, parameters)


def nvcc_without_the_chip(examined: Examined) -> Iterator[Finding]:
    """The nvcc that is here makes no machine code for the chip: too old for it, or too new."""
    build, toolkit = _compiles(examined), _first_toolkit(examined)
    if build is None or toolkit is None or not toolkit.architectures:
        return
    for gpu in examined.gpus:
        if any(machine_code_runs(code, gpu.capability) for code in toolkit.architectures):
            continue
        fitting = next(
            (
                row
                for row in examined.toolkits or ()
                if any(machine_code_runs(code, gpu.capability) for code in row.architectures)
            ),
            None,
        )
        known = " ".join(code.sm for code in toolkit.architectures)
        evidence = (build, _nvcc(toolkit), Evidence(str(toolkit.nvcc), "architectures", known))
        text = f"nvcc fatal   : Unsupported gpu architecture 'compute_{gpu.capability.number}'"
        parameters = {"nvcc": toolkit.version, "gpu": gpu.name, "sm": gpu.capability.sm}
        offered = examined.catalog.offered_toolkit(gpu.capability, _torchs_cuda(examined) or _USUAL_CUDA)
        if fitting or offered:
            fix = _use(fitting, offered.version if offered else "", examined)
            yield Finding("nvcc-without-this-chip", "error", "nvcc", evidence, text, fix, parameters)
        else:
            fix = cpu_torch(examined)
            yield Finding("chip-without-toolkit", "error", "nvcc", evidence, text, fix, parameters)


def _fitting_gcc(examined: Examined, low: int, high: int) -> HostCompiler | None:
    compilers = examined.compilers or ()
    return next((row for row in compilers if row.family == "gcc" and low <= row.major <= high), None)


def host_compiler(examined: Examined) -> Iterator[Finding]:
    """nvcc takes only a range of gcc versions; what `g++` is decides."""
    build, toolkit = _compiles(examined), _first_toolkit(examined)
    if build is None or examined.machine.host.system != "linux":
        return
    if not examined.compilers:
        seen = Evidence("this machine", "C++ compiler", "none on PATH")
        text = "error: command 'g++' failed: No such file or directory"
        fix = "apt-get install build-essential"
        yield Finding("gcc-not-found", "warning", "g++", (build, seen), text, fix, {})
        return
    row = examined.catalog.toolkit(toolkit.version) if toolkit else None
    compiler = examined.compilers[0]
    if toolkit is None or row is None or compiler.family != "gcc":
        return
    if row.gcc_min <= compiler.major <= row.gcc_max:
        return
    evidence = (
        build,
        _nvcc(toolkit),
        Evidence(str(compiler.cxx), "version", compiler.version),
        Evidence("catalog", f"CUDA {row.version}", f"gcc {row.gcc_min} to {row.gcc_max}"),
    )
    fitting = _fitting_gcc(examined, row.gcc_min, row.gcc_max)
    fix = f'export CC="{fitting.cc}" CXX="{fitting.cxx}"' if fitting else f"apt-get install g++-{row.gcc_max}"
    parameters = {"nvcc": toolkit.version, "gcc": compiler.version}
    parameters |= {"newest": str(row.gcc_max), "oldest": str(row.gcc_min)}
    if compiler.major > row.gcc_max:
        text = f"#error -- unsupported GNU version! gcc versions later than {row.gcc_max} are not supported!"
        yield Finding("gcc-too-new", "error", "g++", evidence, text, fix, parameters)
    else:
        text = "error: #error You need C++17 to compile PyTorch"
        yield Finding("gcc-too-old", "error", "g++", evidence, text, fix, parameters)


def wsl_allotment(examined: Examined) -> Iterator[Finding]:
    """WSL2 gives Linux a share of Windows' memory; a build that exceeds it ends all of WSL2."""
    build, host = _compiles(examined), examined.machine.host
    if build is None or host.wsl is None or host.memory_total >= _WANTED_UNDER_WSL:
        return
    memory = f"{host.memory_total / 1e9:.1f}"
    evidence = (build, Evidence("/proc/meminfo", "MemTotal", f"{memory} GB (WSL{host.wsl})"))
    text = "Error code: Wsl/Service/E_UNEXPECTED"
    yield Finding("wsl-allotment", "warning", "WSL2", evidence, text, "bringup wsl", {"memory": memory})
