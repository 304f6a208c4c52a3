"""Compiled kernels on disk, shared by processes.

A file's name is the hash of all that decides its bytes (text, chip, format, options, NVRTC's version), so
nothing is ever overwritten with something else. Two processes that compile the same kernel write the same
file, each beside it first and then by `os.replace`. The file starts with its payload's hash; one that differs
is made anew. A folder that cannot be written costs a compilation per process and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from pathlib import Path

from portable_kernels.compiler.nvrtc import OPTIONS, CodeFormat, compile_source, version
from portable_kernels.compiler.source import KernelSource

_DIGEST_BYTES = 32


def folder() -> Path | None:
    """Return the cache's folder: `$PORTABLE_KERNELS_CACHE`, else the user's cache folder.

    None where it lies in the home of a user without one, such as a number given to a container.
    """
    windows = sys.platform == "win32"
    chosen = os.environ.get("PORTABLE_KERNELS_CACHE")
    base = os.environ.get("LOCALAPPDATA" if windows else "XDG_CACHE_HOME")
    try:
        if chosen:
            return Path(chosen).expanduser()
        if base:
            return Path(base) / "portable-kernels"
        return Path.home() / ("AppData/Local" if windows else ".cache") / "portable-kernels"
    except RuntimeError:
        return None


def path_for(source: KernelSource, target: str, code_format: CodeFormat) -> Path | None:
    """Return the file that holds `source` compiled for `target`, None where there is no folder for it."""
    place = folder()
    if place is None:
        return None
    decisive = "\0".join(
        [source.digest, target, code_format.value, *OPTIONS, *source.options, "{}.{}".format(*version())]
    )
    name = hashlib.sha256(decisive.encode()).hexdigest()[:32]
    return place / target / f"{source.file_name.removesuffix('.cu')}-{name}.{code_format.value}"


def _read(path: Path) -> bytes | None:
    """Return the payload, or None when there is none or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, payload = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return payload if hashlib.sha256(payload).digest() == digest else None


def _write(path: Path, payload: bytes) -> None:
    """Write under a name of its own, then rename: a reader sees all of it or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}.part")
        file = temporary.open("xb")  # readable as the umask says: users may share a folder
    except OSError:
        return
    try:
        with file:
            file.write(hashlib.sha256(payload).digest() + payload)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def compiled(source: KernelSource, target: str, code_format: CodeFormat) -> bytes:
    """Return `source` compiled for `target`, from the cache or by compiling it now."""
    path = path_for(source, target, code_format)
    payload = _read(path) if path else None
    if payload is None:
        payload = compile_source(source, target, code_format)
        if path:
            _write(path, payload)
    return payload
