"""What people call a GPU, for every verb that takes `--gpu`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bringup.binaries.architectures import ComputeCapability


def named_gpus(names: Sequence[str]) -> tuple[ComputeCapability, ...]:
    """Compute capabilities of marketing names («RTX 5090») and architectures (sm_120, 12.0).

    Raises:
        BringupError: `unknown-gpu`, with the nearest name.
    """
    from bringup.catalog import load

    catalog = load()
    return tuple(sorted({catalog.find_gpu(name)[1] for name in names}))
