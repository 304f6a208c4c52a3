"""One file an op family: `comparisons(times)` yields what `benchmarks/kernels.py` measures.

`times` multiplies the workload's own size. The original is imported if it is there (None otherwise).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """The same work by our kernels and by the compiled original: functions without arguments."""

    op: str
    case: str
    ours: Callable[[], Any]
    original: Callable[[], Any] | None


def original_module(name: str) -> ModuleType | None:
    """Return the compiled original, None where it is not on the path."""
    try:
        return import_module(name)
    except ImportError:
        return None
