"""What people call a GPU: «RTX 5090», «5070 Ti», «NVIDIA H200», sm_120, 12.0."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from bringup.binaries.architectures import Architecture, ComputeCapability
from bringup.catalog.schema import Gpu
from bringup.errors import BringupError

_NOISE = {"nvidia", "geforce", "quadro", "tesla", "gpu", "laptop", "mobile", "notebook", "graphics"}
_NOISE |= {"pcie", "sxm", "sxm2", "sxm3", "sxm4", "sxm5", "sxm6", "hbm2", "hbm2e", "hbm3", "hbm3e", "with"}
# Words that people leave out where the rest of the name tells the chip.
_SOMETIMES_LEFT_OUT = {"rtx", "gtx", "gt", "generation", "jetson", "agx", "blackwell", "workstation"}
_SOMETIMES_LEFT_OUT |= {"server", "edition"}
_MEMORY = re.compile(r"\d+ ?(gb|gib|mb)")


def _words(text: str) -> tuple[str, ...]:
    """The words that tell chips apart: lower case, "5070ti" taken apart, brands and memory sizes left out."""
    lowered = _MEMORY.sub(" ", text.lower().replace("max-q", "maxq"))
    spaced = re.sub(r"(\d{3,4})(ti|super|d)\b", r"\1 \2", lowered)
    spaced = re.sub(r"\b(rtx|gtx|gt)(\d)", r"\1 \2", spaced)
    words = re.findall(r"[a-z0-9]+", spaced)
    return tuple(word for word in words if word not in _NOISE)


def _prefixless(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for word in words if word not in _SOMETIMES_LEFT_OUT)


def find_gpu(text: str, gpus: Sequence[Gpu]) -> tuple[str, ComputeCapability]:
    """See `Catalog.find_gpu`."""
    try:
        named = Architecture.parse(text)
    except ValueError:
        pass
    else:
        # «5090» reads as no architecture (four digits), «sm_120», «12.0» and «120» do.
        return named.capability.sm, named.capability
    wanted = _words(text)
    for strip in (lambda words: words, _prefixless):
        for gpu in gpus:
            if strip(_words(gpu.name)) == strip(wanted) and wanted:
                return gpu.name, ComputeCapability.parse(gpu.capability)
    nearest = difflib.get_close_matches(text.lower(), [gpu.name.lower() for gpu in gpus], n=1, cutoff=0.3)
    original = {gpu.name.lower(): gpu.name for gpu in gpus}
    raise BringupError(
        "unknown-gpu",
        exit_code=2,
        given=text,
        nearest=original[nearest[0]] if nearest else "RTX 5090",
    )
