"""Other frameworks than PyTorch that a project computes with: plans choose and prove torch alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Title → (its distributions, its module). TensorFlow's and JAX's helpers compute with the one of their name.
_FRAMEWORKS = {
    "JAX": (r"jax|jaxlib|jax-cuda.*|flax", "jax"),
    "TensorFlow": (r"tensorflow|tensorflow-(?:gpu|cpu|intel)|tf-nightly(?:-gpu)?", "tensorflow"),
    "CuPy": (r"cupy(?:-cuda.*)?", "cupy"),
    "PaddlePaddle": (r"paddlepaddle(?:-gpu)?", "paddle"),
    "MXNet": (r"mxnet(?:-cu.*)?", "mxnet"),
}


def other_frameworks(asked: Iterable[tuple[str, str]], imports: Mapping[str, str]) -> dict[str, str]:
    """Title of each framework that is asked for or imported → the first place.

    Args:
        asked: (canonical name of a distribution, place).
        imports: module → place.
    """
    rows = list(asked)
    found: dict[str, str] = {}
    for title, (distributions, module) in _FRAMEWORKS.items():
        places = [place for name, place in rows if re.fullmatch(distributions, name)]
        places += [imports[module]] if module in imports else []
        if places:
            found[title] = places[0]
    return found
