"""Where the dynamic loader looks for a library that no RPATH leads to.

Sources: ld.so(8) and ldconfig(8) («/etc/ld.so.conf», `include`, trusted folders); glibc's multiarch folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

_TRUSTED = ("lib64", "usr/lib64", "lib", "usr/lib", "usr/local/lib")
_TRIPLETS = ("x86_64-linux-gnu", "aarch64-linux-gnu")
_DEEPEST_INCLUDE = 4


def within(filesystem: Path, path: str) -> Path:
    """An absolute path as a program in this file system means it."""
    return filesystem / path.lstrip("/")


def loader_folders(filesystem: Path, variables: Mapping[str, str]) -> tuple[str, ...]:
    """Folders in the loader's order: LD_LIBRARY_PATH, those of ld.so.conf, the trusted ones.

    Args:
        filesystem: root that absolute paths start from: `/`, or the folder of an unpacked image. Nothing
            outside it is looked at.
        variables: environment variables that the program would run with.
    """
    folders = [
        within(filesystem, text)
        for text in variables.get("LD_LIBRARY_PATH", "").split(":")
        if text.startswith("/")
    ]
    folders += _configured(filesystem / "etc" / "ld.so.conf", filesystem, 0)
    folders += [filesystem / name for name in _TRUSTED]
    folders += [filesystem / base / name for base in ("lib", "usr/lib") for name in _TRIPLETS]
    return tuple(dict.fromkeys(map(str, folders)))


def _configured(file: Path, filesystem: Path, depth: int) -> Iterator[Path]:
    """The folders that one configuration file names, and those of the files that it includes."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        text = line.partition("#")[0].strip()
        if text.startswith("include ") and depth < _DEEPEST_INCLUDE:
            pattern = text.removeprefix("include ").strip()
            base = within(filesystem, pattern) if pattern.startswith("/") else file.parent / pattern
            for included in _matching(base):
                yield from _configured(included, filesystem, depth + 1)
        elif text.startswith("/"):
            yield within(filesystem, text)


def _matching(pattern: Path) -> list[Path]:
    try:
        return sorted(pattern.parent.glob(pattern.name))
    except (OSError, ValueError):
        return []
