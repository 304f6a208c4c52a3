"""`portable-kernels check`: each op compiled, launched where there is a GPU, and compared with its reference.

One file a room, with `CASES`, a list of `Case`; its name stands in `ROOMS`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

import torch

from portable_kernels import index_errors
from portable_kernels.compiler import KernelSource, known_chips
from portable_kernels.compiler.cache import compiled
from portable_kernels.compiler.module import chip_of, ptx_is_forced
from portable_kernels.compiler.nvrtc import target_for

ROOMS = ("scatter", "knn", "marching_cubes", "rasterizer", "nearest", "ssim")


@dataclass(frozen=True)
class Case:
    """One op on one input.

    run: makes its input from a seed of its own on a device and returns the results: the CPU's are the
    reference. sources: the kernels that it needs. tolerance: largest difference allowed, relative to the
    largest value.
    """

    op: str
    run: Callable[[torch.device], Sequence[torch.Tensor]]
    sources: tuple[KernelSource, ...]
    tolerance: float = 1e-5


@dataclass(frozen=True)
class CaseResult:
    """What a case did. Seconds and differences are None where nothing was launched.

    `error` where it failed.
    """

    op: str
    chips: tuple[str, ...]
    compile_seconds: float
    first_use_seconds: float | None
    difference: float | None
    error: str | None


def all_cases(rooms: Sequence[str] = ROOMS) -> Iterator[Case]:
    """Yield the cases of every room."""
    for room in rooms:
        yield from import_module(f"portable_kernels.checks.{room}").CASES


def default_chips() -> tuple[str, ...]:
    """Return the chips of the GPUs here, or without one those that NVRTC knows from 7.5 on."""
    if torch.cuda.is_available():
        return tuple(sorted({chip_of(index) for index in range(torch.cuda.device_count())}))
    return tuple(f"sm_{number}" for number in known_chips() if number >= 75)


def _difference(ours: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> float:
    """Return the largest difference relative to the largest value of each result; inf where shapes differ."""
    worst = 0.0
    for a, b in zip(ours, reference, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if b.numel() == 0:
            continue
        wide = b.double()
        gap = (a.cpu().double() - wide).abs().max() / wide.abs().max().clamp(min=1e-30)
        worst = max(worst, float(gap.nan_to_num(nan=float("inf"))))
    return worst


def run_case(case: Case, chips: Sequence[str], device: torch.device | None) -> CaseResult:
    """Compile a case for chips and, given a CUDA device, run it there and on the CPU.

    A failure is a result.
    """
    begin = time.perf_counter()
    first_use = difference = None
    try:
        for chip in chips:
            for source in case.sources:
                compiled(source, *target_for(chip, ptx_is_forced()))
        compile_seconds = time.perf_counter() - begin
        if device is not None:
            begin = time.perf_counter()
            ours = case.run(device)
            index_errors.check_indices(device)
            first_use = time.perf_counter() - begin
            difference = _difference(ours, case.run(torch.device("cpu")))
            if difference > case.tolerance:
                raise ArithmeticError(
                    f"differs from the reference by {difference:.2g} (≤ {case.tolerance:.2g})"
                )
        error = None
    except Exception as caught:  # noqa: BLE001 - whatever goes wrong with an op is what this command is for
        compile_seconds = time.perf_counter() - begin
        error = f"{type(caught).__name__}: {caught}"
    return CaseResult(case.op, tuple(chips), compile_seconds, first_use, difference, error)
