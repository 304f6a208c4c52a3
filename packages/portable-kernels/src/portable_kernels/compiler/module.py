"""Load compiled kernels on a device and launch them on torch's current stream, through `cuda.core`."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from portable_kernels.compiler import cache as disk
from portable_kernels.compiler.nvrtc import CodeFormat, target_for
from portable_kernels.compiler.source import KernelSource
from portable_kernels.errors import KernelCompilationError

MAX_GRID_X = 2**31 - 1


@cache
def _cuda_core() -> Any:
    """Return the module `cuda.core`, which older releases call `cuda.core.experimental`."""
    try:
        import cuda.core as core

        if hasattr(core, "launch"):
            return core
        import cuda.core.experimental as experimental

        return experimental
    except ImportError as error:
        raise KernelCompilationError(
            f"cuda-core, which launches the kernels, could not be imported ({error}). Install it with the "
            "bindings for your torch's CUDA: pip install 'portable-kernels[cu13]' (or [cu12])."
        ) from error


@cache
def _stream(handle: int) -> Any:
    core = _cuda_core()
    if handle == 0:  # torch's default stream is the legacy one, which cuda.core names by a constant
        legacy = getattr(core, "LEGACY_DEFAULT_STREAM", None)
        if legacy is not None:
            return legacy
    return core.Stream.from_handle(handle)


def launch_grid(threads: int, block: int) -> int:
    """Return how many blocks of `block` threads hold `threads`. ValueError beyond what a launch can take."""
    blocks = -(-threads // block)
    if blocks > MAX_GRID_X:
        raise ValueError(f"{threads} elements are more than one launch can take")
    return blocks


@cache
def chip_of(device: int) -> str:
    """Return `sm_90` for a CUDA device's index."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def ptx_is_forced() -> bool:
    """Tell whether PTX is asked for, by `PORTABLE_KERNELS_FORCE_PTX=1` or the driver's own variable.

    That is `CUDA_FORCE_PTX_JIT=1`: the driver then ignores machine code, so there must be PTX to load.
    """
    return any(
        os.environ.get(name, "0") == "1" for name in ("PORTABLE_KERNELS_FORCE_PTX", "CUDA_FORCE_PTX_JIT")
    )


class KernelModule:
    """The kernels of one `KernelSource`, loaded on each device at first use.

    Threads may share it. Launches go to torch's current stream of the tensors' device.
    """

    def __init__(self, source: KernelSource) -> None:
        self.source = source
        self._kernels: dict[tuple[int, str], Any] = {}
        self._objects: dict[int, Any] = {}
        self._lock = threading.Lock()

    def _load(self, device: int, name: str) -> Any:
        with self._lock, torch.cuda.device(device):
            if device not in self._objects:
                torch.cuda.current_stream(
                    device
                ).synchronize()  # makes torch's context before the driver is asked
                core = _cuda_core()
                core.Device(device).set_current()
                target, code_format = target_for(chip_of(device), ptx_is_forced())
                code = disk.compiled(self.source, target, code_format)
                make = (
                    core.ObjectCode.from_cubin
                    if code_format is CodeFormat.CUBIN
                    else core.ObjectCode.from_ptx
                )
                self._objects[device] = make(code)
            kernel = self._objects[device].get_kernel(name)
            self._kernels[device, name] = kernel
            return kernel

    def launch(
        self,
        name: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Any],
        device: torch.device,
    ) -> None:
        """Launch kernel `name`.

        `args`: tensors (their address is passed; None is a null pointer), ints (64 bits), floats (32 bits).
        Launches on `device`'s current stream; returns at once. KernelCompilationError when it cannot be made.
        """
        index = device.index if device.index is not None else torch.cuda.current_device()
        kernel = self._kernels.get((index, name)) or self._load(index, name)
        core = _cuda_core()
        config = core.LaunchConfig(
            grid=tuple(grid) if isinstance(grid, Sequence) else grid,
            block=tuple(block) if isinstance(block, Sequence) else block,
        )
        values = [_argument(value) for value in args]
        stream = _stream(torch.cuda.current_stream(index).cuda_stream)
        if index == torch.cuda.current_device():
            core.launch(stream, config, kernel, *values)
        else:
            with torch.cuda.device(index):
                core.launch(stream, config, kernel, *values)


def _argument(value: Any) -> Any:
    """Return what `cuda.core.launch` passes by value: an address or integer of 64 bits, or a float of 32."""
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    if value is None:
        return 0
    if isinstance(value, float):
        return ctypes.c_float(value)
    return int(value)
