"""Distributions under the names and versions of the originals, put into an environment and taken out again.

`manifest` knows the shims of this package · `wheel` builds one · `environment` is an interpreter that is not
ours, and what is installed there · `backup` keeps what a shim replaces · `install` does it.
"""

from portable_kernels.errors import ShimError
from portable_kernels.shims.environment import Environment
from portable_kernels.shims.install import ShimState, install, states, uninstall
from portable_kernels.shims.manifest import Shim, all_shims, named_shims

__all__ = [
    "Environment",
    "Shim",
    "ShimError",
    "ShimState",
    "all_shims",
    "install",
    "named_shims",
    "states",
    "uninstall",
]
