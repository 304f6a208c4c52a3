"""Which files are worth opening, by name alone: an environment has tens of thousands that are not."""

from __future__ import annotations

_LIBRARIES = (".so", ".pyd", ".dll", ".a", ".lib")
_OBJECTS_AND_PROGRAMS = (".o", ".obj", ".exe", ".out", ".bin")
_DEVICE_CODE = (".cubin", ".fatbin", ".ptx")
_SUFFIXES = (*_LIBRARIES, *_OBJECTS_AND_PROGRAMS, *_DEVICE_CODE)
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
