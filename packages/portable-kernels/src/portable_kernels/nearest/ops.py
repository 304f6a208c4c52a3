"""`portable_kernels::mean_squared_distance` as a dispatcher op: CPU → reference, CUDA → kernels."""

from __future__ import annotations

import torch

from portable_kernels.nearest import launches, reference

_library = torch.library.Library("portable_kernels", "FRAGMENT")
_library.define("mean_squared_distance(Tensor points) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))


def _cuda(points: torch.Tensor) -> torch.Tensor:
    with torch.cuda.device(points.device):
        return launches.mean_squared_distance(points)


_library.impl("mean_squared_distance", reference.mean_squared_distance, "CPU")
_library.impl("mean_squared_distance", _cuda, "CUDA")
torch.library.register_fake(
    "portable_kernels::mean_squared_distance", lambda points: points.new_empty(points.shape[0]), lib=_library
)
