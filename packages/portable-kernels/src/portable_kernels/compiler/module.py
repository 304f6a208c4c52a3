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
def _driver() -> Any:
    from cuda.bindings import driver

    return driver


@cache
def _stream(handle: int) -> Any:
    return _driver().CUstream(handle)


class _Parameters(threading.local):
    """A thread's memory for kernel parameters: 8 bytes each and the array of their addresses, made once.

    The driver copies parameters during a launch, so that the next launch may overwrite them.
    """

    def __init__(self) -> None:
        most = 64
        self.words = (ctypes.c_uint64 * most)()
        self.halves = (ctypes.c_float * (2 * most)).from_buffer(self.words)
        first = ctypes.addressof(self.words)
        self._pointers = (ctypes.c_uint64 * most)(*range(first, first + 8 * most, 8))
        self.address = ctypes.addressof(self._pointers)
        self.devices: set[int] = set()  # whose context this thread has


_parameters = _Parameters()
_current_stream = (
    torch._C._cuda_getCurrentRawStream if hasattr(torch._C, "_cuda_getCurrentRawStream") else None
)


def _stream_handle(device: int) -> int:
    """Return the address of torch's current stream of a device."""
    if _current_stream is not None:
        handle: int = _current_stream(device)
        return handle
    return int(torch.cuda.current_stream(device).cuda_stream)


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
        self._functions: dict[tuple[int, str], Any] = {}
        self._kept: list[Any] = []  # a kernel's owner must outlive its functions
        self._objects: dict[int, Any] = {}
        self._lock = threading.Lock()

    def _kernel(self, device: int, name: str) -> Any:
        """Return a kernel of the source on a device, whose code is made and loaded once."""
        if device not in self._objects:
            core = _cuda_core()
            core.Device(device).set_current()
            target, code_format = target_for(chip_of(device), ptx_is_forced())
            code = disk.compiled(self.source, target, code_format)
            make = core.ObjectCode.from_cubin if code_format is CodeFormat.CUBIN else core.ObjectCode.from_ptx
            self._objects[device] = make(code)
        return self._objects[device].get_kernel(name)

    def _load(self, device: int, name: str) -> Any:
        with self._lock, torch.cuda.device(device):
            if device not in self._objects:
                # Makes torch's context before the driver is asked.
                torch.cuda.current_stream(device).synchronize()
            try:
                kernel = self._kernel(device, name)
            except KernelCompilationError:
                raise
            except Exception as error:  # the driver's errors have no public name in cuda-core
                raise KernelCompilationError(
                    f"the driver could not load {name} of {self.source} on cuda:{device}: {error}"
                ) from error
            function = _driver().CUfunction(int(getattr(kernel, "handle", None) or kernel._handle))
            self._functions[device, name] = function
            self._kept.append(kernel)
            return function

    def launch(
        self,
        name: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Any],
        device: torch.device,
    ) -> None:
        """Launch kernel `name` on `device`'s current stream and return at once.

        `args`: tensors (their address is passed; None is a null pointer), ints (64 bits), floats (32 bits).
        KernelCompilationError when it cannot be made or launched.
        """
        index = device.index if device.index is not None else torch.cuda.current_device()
        function = self._functions.get((index, name)) or self._load(index, name)
        if index == torch.cuda.current_device():
            _launch(function, _three(grid), _three(block), args, index, name)
        else:
            with torch.cuda.device(index):
                _launch(function, _three(grid), _three(block), args, index, name)


def _three(size: int | Sequence[int]) -> tuple[int, ...]:
    """Return the three sizes of a grid or a block."""
    if isinstance(size, int):
        return (size, 1, 1)
    return (*size, *(1,) * (3 - len(size)))


def _launch(
    function: Any, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], device: int, name: str
) -> None:
    """Pass parameters by the thread's own memory: a launch costs some microseconds, not tens."""
    parameters = _parameters
    if device not in parameters.devices:  # autograd's threads have no context until somebody gives them one
        _cuda_core().Device(device).set_current()
        parameters.devices.add(device)
    words = parameters.words
    for place, value in enumerate(args):
        if isinstance(value, torch.Tensor):
            words[place] = value.data_ptr()
        elif isinstance(value, float):
            parameters.halves[2 * place] = value
        else:
            words[place] = value or 0
    stream = _stream(_stream_handle(device))
    (code,) = _driver().cuLaunchKernel(function, *grid, *block, 0, stream, parameters.address, 0)
    if code:
        raise KernelCompilationError(
            f"{name} could not be launched (grid {grid}, block {block}): {code.name}"
        )
