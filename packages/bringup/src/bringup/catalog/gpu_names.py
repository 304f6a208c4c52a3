"""What people call a GPU: «RTX 5090», «5070 Ti», «NVIDIA H200», sm_120, 12.0."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from bringup.binaries.architectures import Architecture, ComputeCapability
from bringup.catalog.schema import Gpu, Toolkit
from bringup.errors import BringupError

_NOISE = {"nvidia", "geforce", "quadro", "tesla", "gpu", "laptop", "mobile", "notebook", "graphics"}
_NOISE |= {"ac", "design", "tm", "gddr5", "gddr6", "gddr6x", "gddr7", "mig"}
_NOISE |= {"pcie", "sxm", "sxm2", "sxm3", "sxm4", "sxm5", "sxm6", "hbm2", "hbm2e", "hbm3", "hbm3e", "with"}
# Words that people leave out where the rest of the name tells the chip.
_SOMETIMES_LEFT_OUT = {"rtx", "gtx", "gt", "generation", "jetson", "agx", "blackwell", "workstation"}
_SOMETIMES_LEFT_OUT |= {"server", "edition", "maxq"}
# Memory, and the slice of a GPU that MIG gives («1g.5gb»).
_MEMORY = re.compile(r"\b(\d+g\.)?\d+ ?(gb?|gib|mb)\b")
# GPUs of AMD, Intel and Apple by their brands and series («M4» and «M40» alone are NVIDIA's).
_OTHER_VENDORS = {
    "AMD": r"amd|radeon|instinct|firepro|vega|mi ?\d{2,3}[a-z]*|rx ?\d{3,4}\w*|gfx\d+[a-z]?",
    "Intel": r"intel|gaudi ?\d?|arc|iris|xe|ponte vecchio",
    "Apple": r"apple|m[1-9] (?:pro|max|ultra)",
}
_SPELLED_AS_ARCHITECTURE = re.compile(r"(?:sm|compute)[_ ]?\d+[af]?|\d{1,3}\.\d+[af]?")
# Its generations were 7, 8, 9, 10 and 12: at most one number was left out.
_GENERATIONS_AHEAD = 2


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


def known_capabilities(gpus: Sequence[Gpu], toolkits: Sequence[Toolkit]) -> list[ComputeCapability]:
    """Of every GPU in the catalog and every architecture that a toolkit compiles for, in order."""
    compiled = {Architecture.parse(name).capability for row in toolkits for name in row.architectures}
    return sorted(compiled | {ComputeCapability.parse(row.capability) for row in gpus})


def find_gpu(text: str, gpus: Sequence[Gpu], toolkits: Sequence[Toolkit]) -> tuple[str, ComputeCapability]:
    """See `Catalog.find_gpu`."""
    known = known_capabilities(gpus, toolkits)
    try:
        named = Architecture.parse(text).capability
    except ValueError:
        named = None
    if named in known:
        return named.sm, named
    wanted = _words(text)
    for strip in (lambda words: words, _prefixless):
        for gpu in gpus:
            if strip(_words(gpu.name)) == strip(wanted) and wanted:
                return gpu.name, ComputeCapability.parse(gpu.capability)
    # A number can be a name: «680» is a GTX 680 and no compute capability of 68.0.
    if named and known[-1] < named and named.major <= known[-1].major + _GENERATIONS_AHEAD:
        return named.sm, named
    if named or _SPELLED_AS_ARCHITECTURE.fullmatch(text.strip().lower()):
        nearest = ", ".join(row.sm for row in _beside(named or known[-1], known))
        raise BringupError("unknown-capability", exit_code=2, given=text, nearest=nearest)
    for vendor, names in _OTHER_VENDORS.items():
        if re.search(rf"\b(?:{names})\b", text.lower()):
            raise BringupError("gpu-of-another-vendor", exit_code=2, given=text, vendor=vendor)
    raise BringupError("unknown-gpu", exit_code=2, given=text, nearest=_nearest(wanted, gpus))


def _beside(wanted: ComputeCapability, known: Sequence[ComputeCapability]) -> list[ComputeCapability]:
    """The known ones next to it: the one below, the one above."""
    below = [row for row in known if row <= wanted][-1:]
    return below + [row for row in known if row > wanted][:1]


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
