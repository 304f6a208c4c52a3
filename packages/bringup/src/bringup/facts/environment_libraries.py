"""The C and C++ libraries that an environment's programs load."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_GLIBC = re.compile(rb"GNU C Library [^\n\0]*version (\d+\.\d+)")
_GLIBCXX = re.compile(rb"GLIBCXX_(\d+\.\d+\.\d+)")
_TRIPLETS = ("x86_64-linux-gnu", "aarch64-linux-gnu")
_LARGEST = 64 << 20


@dataclass(frozen=True)
class LibraryFacts:
    """The C and C++ libraries that the environment's programs load.

    Attributes:
        glibc: "2.36"; None where it cannot be read (musl, Windows).
        glibcxx: newest GLIBCXX version that libstdc++ offers, "3.4.32". libstdcxx: which file that is.
    """

    glibc: str | None
    glibcxx: str | None
    libstdcxx: str | None


def read_libraries(prefixes: Sequence[Path], filesystem: Path) -> LibraryFacts:
    """Read libc.so.6 and the libstdc++.so.6 that is found first."""
    folders = [filesystem / "lib" / name for name in _TRIPLETS]
    folders += [filesystem / "usr/lib" / name for name in _TRIPLETS]
    folders += [filesystem / name for name in ("lib64", "usr/lib64", "lib", "usr/lib")]
    glibc = _newest(_GLIBC, folders, "libc.so.6")
    # conda brings its own C++ library and finds it first.
    own = [prefix / "lib" for prefix in prefixes if (prefix / "conda-meta").is_dir()]
    glibcxx = _newest(_GLIBCXX, [*own, *folders], "libstdc++.so.6")
    return LibraryFacts(
        glibc=glibc[0] if glibc else None,
        glibcxx=glibcxx[0] if glibcxx else None,
        libstdcxx=glibcxx[1] if glibcxx else None,
    )


def _newest(pattern: re.Pattern[bytes], folders: Sequence[Path], name: str) -> tuple[str, str] | None:
    """(newest version that the first such library names, its path)."""
    for folder in folders:
        path = folder / name
        try:
            if path.stat().st_size > _LARGEST:
                continue
            data = path.read_bytes()
        except OSError:
            continue
        versions = {match[1].decode() for match in pattern.finditer(data)}
        if versions:
            newest = max(versions, key=lambda text: tuple(map(int, text.split("."))))
            return newest, str(path)
    return None
