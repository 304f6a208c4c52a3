"""How many threads a launch takes, and what each of them does."""

from __future__ import annotations

from portable_kernels.compiler import launch_grid

BLOCK = 256
ENOUGH_THREADS = 2**18  # about what fills a large GPU: below, lanes share a segment


def block_count(threads: int) -> int:
    """Return how many blocks of `BLOCK` hold `threads`."""
    return launch_grid(threads, BLOCK)


def _log2_up(value: int, most: int) -> int:
    """Return the smallest exponent whose power of two is >= value, at most `most`."""
    return min(most, max(0, value - 1).bit_length())


def vector_width(size: int, K: int, address: int) -> int:
    """Return how many elements of `size` bytes along K a thread may take at once: all addresses aligned.

    `address`: those of all tensors, or-ed.
    """
    vector = 16 // size
    while vector > 1 and (K % vector or address % (vector * size)):
        vector //= 2
    return vector


def lanes(rows: int, E: int, words: int, least: int = 1) -> tuple[int, int, int]:
    """Return log2 of the lanes along K and along a segment, and the chunks of K, for `words` a row.

    As few lanes a segment as fill the GPU, and no more than a segment has elements on average; `least` lanes
    in all, so that neighbours write side by side.
    """
    log_x = _log2_up(words, 5)
    chunks = -(-words >> log_x) if words else 1
    filling = max(-(-ENOUGH_THREADS // (rows * chunks << log_x)), least >> log_x)
    wanted = min(-(-E // max(rows, 1)), filling)
    return log_x, _log2_up(wanted, 8 - log_x), chunks
