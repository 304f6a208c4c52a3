"""The two ops on the dispatcher: CPU → reference, CUDA → kernels, fake tensors. Neither has a gradient.

marching_cubes(volume, threshold) → vertices, faces · grid_interp(volume, points) → values
"""

from __future__ import annotations

import torch

from portable_kernels.marching_cubes import launches, reference
from portable_kernels.untraced import untraced

NAMESPACE = "portable_kernels"
_library = torch.library.Library(NAMESPACE, "FRAGMENT")
_library.define("marching_cubes(Tensor volume, float threshold) -> (Tensor, Tensor)")
_library.define("grid_interp(Tensor volume, Tensor points) -> Tensor")


def _marching_cubes_fake(volume: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    context = torch.library.get_ctx()
    vertices, faces = context.new_dynamic_size(), context.new_dynamic_size()
    return volume.new_empty((vertices, 3)), volume.new_empty((faces, 3), dtype=torch.int32)


def _grid_interp_fake(volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    return volume.new_empty((points.shape[0], volume.shape[0]))


_library.impl("marching_cubes", untraced(reference.marching_cubes), "CPU")
_library.impl("marching_cubes", untraced(launches.marching_cubes), "CUDA")
_library.impl("grid_interp", reference.grid_interp, "CPU")
_library.impl("grid_interp", launches.grid_interp, "CUDA")
torch.library.register_fake(f"{NAMESPACE}::marching_cubes", _marching_cubes_fake, lib=_library)
torch.library.register_fake(f"{NAMESPACE}::grid_interp", _grid_interp_fake, lib=_library)

marching_cubes = torch.ops.portable_kernels.marching_cubes
grid_interp = torch.ops.portable_kernels.grid_interp
