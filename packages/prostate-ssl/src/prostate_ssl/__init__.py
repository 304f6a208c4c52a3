"""Self-supervised pre-training (DINO + iBOT + KoLeo) on multi-parametric prostate MRI."""

from importlib.metadata import version

__version__ = version("prostate-ssl")
