"""What people call a GPU: «RTX 5090», «5070 Ti», «NVIDIA H200», sm_120, 12.0."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from bringup.binaries.architectures import Architecture, ComputeCapability
from bringup.catalog.schema import Gpu
from bringup.errors import BringupError

_NOISE = {"nvidia", "geforce", "quadro", "tesla", "gpu", "laptop", "mobile", "notebook", "graphics"}
_NOISE |= {"ac", "design", "tm", "gddr5", "gddr6", "gddr6x", "gddr7", "mig"}
_NOISE |= {"pcie", "sxm", "sxm2", "sxm3", "sxm4", "sxm5", "sxm6", "hbm2", "hbm2e", "hbm3", "hbm3e", "with"}
# Words that people leave out where the rest of the name tells the chip.
_SOMETIMES_LEFT_OUT = {"rtx", "gtx", "gt", "generation", "jetson", "agx", "blackwell", "workstation"}
_SOMETIMES_LEFT_OUT |= {"server", "edition", "maxq"}
# Memory, and the slice of a GPU that MIG gives («1g.5gb»).
_MEMORY = re.compile(r"\b(\d+g\.)?\d+ ?(gb?|gib|mb)\b")


def _words(text: str) -> tuple[str, ...]:
    """The words that tell chips apart: lower case, "5070ti" taken apart, brands and memory sizes left out."""
    lowered = _MEMORY.sub(" ", text.lower().replace("max-q", "maxq"))
    spaced = re.sub(r"(\d{3,4})(ti|super|d|s)\b", _model, re.sub(r"(\dti)super\b", r"\1 super", lowered))
    spaced = re.sub(r"\b(rtx|gtx|gt)(\d)", r"\1 \2", spaced)
    words = re.findall(r"[a-z0-9]+", spaced)
    return tuple(word for word in words if word not in _NOISE)


def _model(match: re.Match[str]) -> str:
    """«5070ti», «4070s» taken apart; NVIDIA's own names with an S (L40S, V100S) have no four digits."""
    number, suffix = match.groups()
    if suffix == "s":
        return f"{number} super" if len(number) == 4 else number + suffix
    return f"{number} {suffix}"


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
    raise BringupError("unknown-gpu", exit_code=2, given=text, nearest=_nearest(wanted, gpus))


def _nearest(wanted: tuple[str, ...], gpus: Sequence[Gpu]) -> str:
    """The name that shares the number, then the most words, then the spelling; a brand alone says nothing."""
    written = " ".join(wanted)

    def likeness(gpu: Gpu) -> tuple[int, int, int, float]:
        words = set(_prefixless(_words(gpu.name)))
        shared = words & set(_prefixless(wanted))
        numbers = sum(any(map(str.isdigit, word)) for word in shared)
        alike = difflib.SequenceMatcher(None, written, " ".join(_words(gpu.name))).ratio()
        return numbers, len(shared), -len(words - shared) if shared else 0, alike

    return max(gpus, key=likeness).name if wanted else "GeForce RTX 5090"
