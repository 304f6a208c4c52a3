"""What people call a GPU, for every verb that takes `--gpu`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bringup.binaries.architectures import ComputeCapability


def named_gpus(names: Sequence[str]) -> tuple[ComputeCapability, ...]:
    """Compute capabilities of marketing names («RTX 5090») and architectures (sm_120, 12.0).

    Raises:
        BringupError: as `find_gpus`.
    """
    return tuple(sorted({capability for _, capability in find_gpus(names)}))


def find_gpus(names: Sequence[str]) -> list[tuple[str, ComputeCapability]]:
    """Name and compute capability of each, once; of one that is newer than the catalog it is said so.

    Raises:
        BringupError: `unknown-gpu`, `unknown-capability`, `gpu-of-another-vendor`.
    """
    from bringup.catalog import load

    catalog = load()
    found = list(dict.fromkeys(catalog.find_gpu(name) for name in names))
    for name, capability in found:
        if not catalog.knows(capability):
            from bringup.report import console
            from bringup.report.messages import say

            text = say("facts.gpu-newer-than-catalog", gpu=name, capability=capability)
            console.remarks().print(text, style="yellow", markup=False)
    return found
