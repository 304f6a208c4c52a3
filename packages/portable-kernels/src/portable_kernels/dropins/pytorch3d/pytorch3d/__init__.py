"""The import name of PyTorch3D 0.7.9 for projects that need nothing of it but nearest neighbours.

`pytorch3d.ops`, `pytorch3d.ops.knn` and `pytorch3d.ops.ball_query` are served by portable-kernels. Any other
import below `pytorch3d` is an ImportError that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__version__ = "0.7.9"


def _not_here(name: str) -> str:
    return (
        f"'{name}' is not in this pytorch3d: it is a shim of portable-kernels with knn_points, knn_gather "
        "and ball_query of pytorch3d.ops alone. For more, put PyTorch3D itself in its place: run "
        "'portable-kernels uninstall --shim pytorch3d', then build it as its INSTALL.md says (pip install "
        "'git+https://github.com/facebookresearch/pytorch3d.git')."
    )


class _TheRest(MetaPathFinder):
    """Asked last, for modules that nobody found: names those of PyTorch3D that this shim does not hold.

    To code that only asks (`importlib.util.find_spec`, `pkgutil`) they are absent, as any module that is not
    there; an import is told why. The import system asks both by the same call: only the caller differs.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        asking = sys._getframe(1).f_back  # above importlib's own _find_spec
        imports = asking is not None and asking.f_code.co_name == "_find_and_load_unlocked"
        if imports and fullname.startswith("pytorch3d."):
            # Without its attribute `name`: `from pytorch3d import x` would swallow the message otherwise.
            raise ModuleNotFoundError(_not_here(fullname))
        return None


if not any(type(finder).__name__ == "_TheRest" for finder in sys.meta_path):
    sys.meta_path.append(_TheRest())


def __getattr__(name: str) -> object:
    raise AttributeError(_not_here(f"pytorch3d.{name}"), name=name)
