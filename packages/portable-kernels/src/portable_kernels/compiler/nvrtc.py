"""Compile CUDA C++ for a chip by NVRTC. Needs no GPU, no driver, no C compiler.

NVRTC comes with torch's CUDA wheels (`nvidia-cuda-nvrtc`); `cuda-bindings` calls it. Machine code (`cubin`)
is made for chips that NVRTC knows; for a later chip PTX of the newest that it knows, which the driver
finishes.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from typing import Any

from portable_kernels.compiler.source import KernelSource
from portable_kernels.errors import KernelCompilationError

OPTIONS = ("--std=c++17", "-default-device")

_CHIP = re.compile(r"sm_(\d+)[af]?")


class CodeFormat(Enum):
    """What the compiler makes: machine code for one chip, or PTX for the driver to finish."""

    CUBIN = "cubin"
    PTX = "ptx"


@cache
def _nvrtc() -> Any:
    """Return `cuda.bindings.nvrtc`, its library found and loaded."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except Exception as error:
        raise KernelCompilationError(
            "NVRTC, the run-time compiler for CUDA, could not be loaded "
            f"({type(error).__name__}: {' '.join(str(error).split()) or 'no message'}). "
            "Install the bindings for your torch's CUDA: pip install 'portable-kernels[cu13]' (or [cu12]); "
            "without a CUDA torch also 'portable-kernels[nvrtc]'."
        ) from error
    return nvrtc


def _check(result: Any, program: Any = None, source: KernelSource | None = None) -> Any:
    """Return the payload of an NVRTC call, or raise with the compiler's own words."""
    code, *payload = result
    if int(code) != 0:
        message = str(code)
        if program is not None:
            size = _check(_nvrtc().nvrtcGetProgramLogSize(program))
            log = b" " * size
            _check(_nvrtc().nvrtcGetProgramLog(program, log))
            message = log.decode(errors="replace").strip("\x00\n ") or message
        raise KernelCompilationError(f"NVRTC could not compile {source}: {message}" if source else message)
    return payload[0] if len(payload) == 1 else payload


@cache
def version() -> tuple[int, int]:
    """Return NVRTC's version, such as (13, 0)."""
    major, minor = _check(_nvrtc().nvrtcVersion())
    return int(major), int(minor)


@cache
def known_chips() -> tuple[int, ...]:
    """Return the compute capabilities this NVRTC makes machine code for, ascending: 75, 80, …, 120."""
    return tuple(sorted(int(chip) for chip in _check(_nvrtc().nvrtcGetSupportedArchs())))


def chip_number(chip: str) -> int:
    """Return 90 for `sm_90`. ValueError for anything else."""
    found = _CHIP.fullmatch(chip)
    if not found:
        raise ValueError(f"'{chip}' names no chip; expected something like sm_90")
    return int(found.group(1))


def target_for(chip: str, force_ptx: bool = False) -> tuple[str, CodeFormat]:
    """Return what the compiler is asked for: (`sm_90`, CUBIN), or (`compute_NN`, PTX) for a later chip.

    KernelCompilationError when the chip is older than all that this NVRTC knows.
    """
    number = chip_number(chip)
    if number in known_chips() and not force_ptx:
        return chip, CodeFormat.CUBIN
    older = [known for known in known_chips() if known <= number]
    if not older:
        raise KernelCompilationError(
            f"NVRTC {'.'.join(map(str, version()))} makes no code for {chip}: the oldest chip it knows is "
            f"sm_{known_chips()[0]}. A torch built for an older CUDA brings an NVRTC that does."
        )
    return f"compute_{older[-1]}", CodeFormat.PTX


def compile_source(source: KernelSource, target: str, code_format: CodeFormat) -> bytes:
    """Return machine code or PTX of `source` for `target` (`sm_90`, `compute_120`).

    KernelCompilationError with the compiler's messages when it fails.
    """
    nvrtc = _nvrtc()
    program = _check(nvrtc.nvrtcCreateProgram(source.text.encode(), source.file_name.encode(), 0, [], []))
    try:
        options = [
            f"--gpu-architecture={target}".encode(),
            *(option.encode() for option in OPTIONS + source.options),
        ]
        _check(nvrtc.nvrtcCompileProgram(program, len(options), options), program, source)
        if code_format is CodeFormat.CUBIN:
            code = b" " * _check(nvrtc.nvrtcGetCUBINSize(program))
            _check(nvrtc.nvrtcGetCUBIN(program, code))
        else:
            code = b" " * _check(nvrtc.nvrtcGetPTXSize(program))
            _check(nvrtc.nvrtcGetPTX(program, code))
        return bytes(code)
    finally:
        _check(nvrtc.nvrtcDestroyProgram(program))
