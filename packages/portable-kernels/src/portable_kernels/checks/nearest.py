"""Mean squared distances to three neighbours."""

from __future__ import annotations

import torch

from portable_kernels.checks import Case
from portable_kernels.nearest import distCUDA2
from portable_kernels.nearest.launches import SOURCE


def _distances(device: torch.device) -> list[torch.Tensor]:
    return [distCUDA2(torch.rand((3000, 3), generator=torch.Generator().manual_seed(0)).to(device))]


CASES = [Case("distCUDA2", _distances, (SOURCE,))]
