"""Counter-based randomness: a draw is a pure function of (seed, epoch, case, crop, operation).

Nothing is stored and nothing advances, so that a resumed run, another number of workers or another number
of GPUs draws the same numbers. The mixing function is the finaliser of SplitMix64 (Steele, Lea, Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014), in 64-bit integers that wrap around: the
bits are the same in numpy and in torch, on the CPU and on a GPU.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

import numpy as np
import torch

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = (1 << 64) - 1

Bits = TypeVar("Bits", "np.ndarray", torch.Tensor)


class Draw(IntEnum):
    """What a draw is for. The numbers are part of the stream: never renumber, only append."""

    ORDER = 1
    AXIS = 2
    SLICE = 3
    SHARE = 4
    MASKED_CROPS = 5


def _signed(word: int) -> int:
    word &= _MASK
    return word - (1 << 64) if word >= 1 << 63 else word


def _mix_tensor(bits: torch.Tensor) -> torch.Tensor:
    bits = bits + _signed(_GOLDEN)
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * _signed(_FIRST)
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * _signed(_SECOND)
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


def _mix_array(bits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        bits = bits + np.uint64(_GOLDEN)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_FIRST)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_SECOND)
        return np.asarray(bits ^ (bits >> np.uint64(31)))


def _as_bits(word: int | np.ndarray) -> np.ndarray:
    if isinstance(word, np.ndarray):
        return word if word.dtype == np.uint64 else word.astype(np.int64).view(np.uint64)
    return np.asarray(word & _MASK, dtype=np.uint64)


def host_key(*words: int | np.ndarray) -> np.ndarray:
    """Fold integers (or integer arrays, broadcast) into keys; uint64, shape of the broadcast words."""
    key = np.asarray(0, dtype=np.uint64)
    for word in words:
        key = _mix_array(key ^ _mix_array(_as_bits(word)))
    return key


def host_uniform(*words: int | np.ndarray) -> np.ndarray:
    """Uniform float64 in [0, 1), one for each broadcast combination of the words."""
    return (host_key(*words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def host_permutation(size: int, *words: int) -> np.ndarray:
    """A permutation of range(size), int64 (size,), keyed by the words: the order of one draw per element."""
    return np.argsort(host_key(*words, np.arange(size, dtype=np.int64)), kind="stable")


def as_tensor_keys(keys: np.ndarray) -> torch.Tensor:
    """uint64 keys of the host as the int64 tensor that the device functions take (the same bits)."""
    return torch.from_numpy(np.ascontiguousarray(keys).view(np.int64))


def fold(keys: torch.Tensor, word: int | torch.Tensor) -> torch.Tensor:
    """Fold one more word into int64 keys of any shape; the same bits as `host_key(…, word)`."""
    if isinstance(word, int):
        word = torch.full((), _signed(word), dtype=torch.int64, device=keys.device)
    return _mix_tensor(keys ^ _mix_tensor(word))


def uniform(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Uniform float32 in [0, 1).

    Args:
        keys: int64, any shape.
        count: numbers per key.

    Returns:
        (*keys.shape, count) float32 with 24 random bits each.
    """
    counter = torch.arange(count, device=keys.device, dtype=torch.int64)
    bits = _mix_tensor(keys.unsqueeze(-1) ^ _mix_tensor(counter))
    return ((bits >> 40) & ((1 << 24) - 1)).to(torch.float32) * 2.0**-24
