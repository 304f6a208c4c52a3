"""The text of a kernel: a `.cu` file of this package with the headers it names, and its macros."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_INCLUDE = '#include "'


@cache
def _read_with_headers(file_name: str) -> str:
    """Return a file of `portable_kernels/kernels`, each `#include "x.cuh"` replaced by that file's text."""
    text = (files("portable_kernels") / "kernels" / file_name).read_text(encoding="utf-8")
    lines = []
    for line in text.splitlines():
        if line.startswith(_INCLUDE):
            lines.append(_read_with_headers(line[len(_INCLUDE) :].rstrip('"')))
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class KernelSource:
    """One translation unit: a file of `portable_kernels/kernels`, `NAME=value` macros, compiler options."""

    file_name: str
    macros: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole text, with headers and macros in place: what is compiled is what is hashed."""
        lines = [f"#define {name} {value}\n" for name, value in self.macros]
        return "".join(lines) + _read_with_headers(self.file_name)

    @property
    def digest(self) -> str:
        """SHA-256 of `text`, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __str__(self) -> str:
        macros = ",".join(f"{name}={value}" for name, value in self.macros)
        return f"{self.file_name}[{macros}]" if macros else self.file_name
