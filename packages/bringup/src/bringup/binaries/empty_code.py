"""Machine code without a function: what nvcc leaves of a translation unit that has no kernel.

Such an image is there for form's sake, often for one architecture only (`sm_52`, nvcc's default of its
time): libnvblas, libcufftw and cuFFT 12 carry one. A library must not be judged by it.

Sources: «LZ4 Block Format Description»; RFC 8878 (zstd).
"""

from __future__ import annotations

from functools import lru_cache

import zstandard

from bringup.binaries.elf import read_elf
from bringup.binaries.source import BytesSource, Damaged

# Largest seen without a function: 2,248 bytes as they are (nvcc 13.0), 650 with LZ4, 624 with zstd.
_LARGEST, _LARGEST_PACKED = 2560, 1024
_LARGEST_UNPACKED = 1 << 16
_LZ4, _ZSTD = 0x2000, 0x8000


def may_be_empty(size: int, flags: int) -> bool:
    """Whether a payload of machine code is small enough to be looked into."""
    return size <= (_LARGEST_PACKED if flags & (_LZ4 | _ZSTD) else _LARGEST)


@lru_cache(maxsize=256)
def holds_no_function(payload: bytes, flags: int) -> bool:
    """Whether a small payload of machine code has no code section. False where it cannot be read.

    Args:
        flags: of the entry; they say how it is compressed.
    """
    try:
        if flags & _LZ4:
            payload = unpack_lz4(payload)
        elif flags & _ZSTD:
            unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27)
            with unpacker.stream_reader(payload) as stream:
                payload = stream.read(_LARGEST_UNPACKED)
        facts = read_elf(BytesSource(payload))
    except (Damaged, ValueError, IndexError, zstandard.ZstdError):
        return False
    return bool(facts.sections) and not any(
        facts.names.startswith(b".text", section.name) for section in facts.sections
    )


def unpack_lz4(block: bytes) -> bytes:
    """One LZ4 block, up to 64 kB of it.

    Raises:
        IndexError, ValueError: it is damaged.
    """
    out = bytearray()
    at = 0
    while at < len(block) and len(out) < _LARGEST_UNPACKED:
        token = block[at]
        at += 1
        literals, at = _length(block, at, token >> 4)
        out += block[at : at + literals]
        at += literals
        if at + 2 > len(block):
            break  # The last sequence has no match.
        distance = block[at] | block[at + 1] << 8
        length, at = _length(block, at + 2, token & 15)
        if not 0 < distance <= len(out):
            if not any(block[at - 2 :]):
                break  # Payloads are padded with zeros.
            raise ValueError("a match outside the block")
        length = min(length + 4, _LARGEST_UNPACKED)
        # A match may reach into what it is writing: then its beginning repeats.
        pattern = out[-distance:][:length]
        out += (pattern * (length // len(pattern) + 1))[:length]
    return bytes(out)


def _length(block: bytes, at: int, first: int) -> tuple[int, int]:
    """A length of which 15 means that more bytes follow; and where it ends."""
    length = first
    if first == 15:
        while True:
            length += block[at]
            at += 1
            if block[at - 1] != 255:
                break
    return length, at
