"""Which files are worth opening, by name alone: an environment has tens of thousands that are not."""

from __future__ import annotations

_SUFFIXES = tuple(".so .pyd .dll .cubin .fatbin .ptx .a .o .exe .lib .obj .out .bin".split())
_ARCHIVES = (".whl", ".egg")
_METADATA = (".dist-info", ".egg-info", "EGG-INFO", "__pycache__")
_TEXTS = frozenset(("RECORD", "METADATA", "WHEEL", "INSTALLER", "REQUESTED", "LICENSE", "Makefile"))


def is_archive(name: str) -> bool:
    """A wheel or an egg, by its name."""
    return name.endswith(_ARCHIVES)


def may_be_binary(name: str) -> bool:
    """A shared object, Windows library, object file, device code, or a program without a suffix."""
    lowered = name.lower()
    if lowered.endswith(_SUFFIXES) or ".so." in lowered:
        return True
    return "." not in name and name not in _TEXTS


def holds_metadata(folder: str) -> bool:
    """A folder of texts about a distribution, or of byte code."""
    return folder.endswith(_METADATA)
