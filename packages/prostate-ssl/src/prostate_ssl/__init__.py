"""Self-supervised pre-training (DINO + iBOT + KoLeo) on multi-parametric prostate MRI."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("prostate-ssl")
except PackageNotFoundError:  # a source tree on PYTHONPATH, as on a cluster's nodes
    __version__ = "0+uninstalled"
