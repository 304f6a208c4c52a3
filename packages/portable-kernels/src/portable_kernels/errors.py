"""What this package raises of its own.

Wrong arguments raise what the original raises (`ValueError`, `RuntimeError`).
"""

from __future__ import annotations


class KernelCompilationError(RuntimeError):
    """A kernel could not be compiled or loaded: NVRTC is missing, too old, or the driver refused the code."""


class BadIndexError(IndexError, RuntimeError):
    """An index lies outside its bounds; nothing was read or written through it.

    An `IndexError` by meaning, and a `RuntimeError` because that is what the originals raise where they
    check.
    """


class ShimError(RuntimeError):
    """A shim cannot be installed or removed; the message is one paragraph that says what to do."""
