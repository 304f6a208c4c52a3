"""Reductions and gathers by index: the surface of torch_scatter 2.1.2."""

from portable_kernels.scatter import composite, functional
from portable_kernels.scatter.composite import *  # noqa: F403
from portable_kernels.scatter.functional import *  # noqa: F403

__all__ = [*functional.__all__, *composite.__all__]
