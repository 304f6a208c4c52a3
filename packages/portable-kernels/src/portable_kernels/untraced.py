"""Implementations of operators that torch.compile must not look into.

An operator whose sizes depend on data ends a compiled graph and is called on its own. Dynamo would go on into
its Python, which it was not written for: it takes minutes where a table is derived, and misses caches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch


def untraced(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operator's implementation that runs as it stands, also within what torch.compile compiles.

    Dynamo is asked for that only where it has been loaded, which takes a second: otherwise nobody compiles.
    """
    disabled: Callable[..., Any] | None = None

    def call(*args: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            if "torch._dynamo" not in sys.modules:
                return implementation(*args)
            disabled = torch.compiler.disable(implementation)
        return disabled(*args)

    return call
