"""How a bad index on a GPU is reported without stopping for it.

A kernel that meets an index outside its bounds touches no memory through it, and writes what it saw into
page-locked host memory, which the host reads for nothing. Each op looks there before it starts, and so does
`check_indices`, which waits for the device first. With `PORTABLE_KERNELS_DEBUG=1` every op waits and checks
at once.
"""

from __future__ import annotations

import ctypes
import os
import threading
from functools import cache

import torch

from portable_kernels.errors import BadIndexError

_MEANING = {
    1: "index {value} at position {position} is outside [0, {size})",
    2: "pointer {value} of segment {position} is outside [0, {size}] or smaller than the one before it",
    3: "index {value} at position {position} is smaller than the one before it; sorted indices are expected",
    4: "length {value} of cloud {position} is outside [0, {size}]",
}


_flags: dict[int, torch.Tensor] = {}
_making_a_flag = threading.Lock()


def flag(device: int) -> torch.Tensor:
    """Return the (4,) int64 of page-locked host memory that a device's kernels write a bad index into.

    One a device, whichever thread is first, and whatever modes it is in.
    """
    made = _flags.get(device)
    if made is not None:
        return made
    with _making_a_flag, torch.inference_mode(False):
        if device not in _flags:
            _flags[device] = torch.zeros(4, dtype=torch.int64, device="cpu", pin_memory=True)
    return _flags[device]


@cache
def _words(device: int) -> ctypes.Array[ctypes.c_int64]:
    """The same memory as C integers: reading one costs less than a tensor's item()."""
    return (ctypes.c_int64 * 4).from_address(flag(device).data_ptr())


@cache
def flag_address(device: int) -> int:
    """Return the address of `flag(device)`."""
    return flag(device).data_ptr()


def raise_reported(device: int) -> None:
    """Raise the BadIndexError that a kernel has reported on this device so far, if any, and forget it."""
    words = _words(device)
    if words[0] == 0:
        return
    code, value, position, size = words
    what = _MEANING[code].format(value=value, position=position, size=size)
    message = (
        f"portable_kernels: {what}. The operation may be an earlier one on cuda:{device}; "
        "PORTABLE_KERNELS_DEBUG=1 checks each at once."
    )
    words[0] = 0
    raise BadIndexError(message)


def check_indices(device: torch.device | int | None = None) -> None:
    """Wait for a CUDA device and raise BadIndexError if any op so far was given an index outside its
    bounds.
    """
    if not torch.cuda.is_available():
        return
    index = device if isinstance(device, int) else torch.device(device or "cuda").index
    index = torch.cuda.current_device() if index is None else index
    torch.cuda.synchronize(index)
    raise_reported(index)


def checks_at_once() -> bool:
    """Tell whether `PORTABLE_KERNELS_DEBUG=1` asks for a check after every op."""
    return os.environ.get("PORTABLE_KERNELS_DEBUG", "0") == "1"


def after_launch(device: int) -> None:
    """What every op with a user's index does after its kernels: nothing, or in the debug mode a check."""
    if checks_at_once():
        check_indices(device)


def check_bounds(index: torch.Tensor, size: int) -> None:
    """Raise BadIndexError unless all of an index on the CPU lies in [0, size)."""
    if index.numel() == 0:
        return
    low, high = (int(bound) for bound in index.aminmax())
    if low < 0 or high >= size:
        raise BadIndexError(f"portable_kernels: index {low if low < 0 else high} is outside [0, {size})")


def check_pointers(pointers: torch.Tensor, size: int) -> None:
    """Raise BadIndexError unless pointers (…, N + 1) on the CPU ascend within [0, size]."""
    check_bounds(pointers, size + 1)
    if bool((pointers[..., 1:] < pointers[..., :-1]).any()):
        raise BadIndexError("portable_kernels: pointers of segments must not decrease")
