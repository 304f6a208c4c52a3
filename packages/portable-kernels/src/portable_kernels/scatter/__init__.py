"""Reductions and gathers by index: the surface of torch_scatter 2.1.2."""

from portable_kernels.scatter.functional import *  # noqa: F403
from portable_kernels.scatter.functional import __all__ as __all__
