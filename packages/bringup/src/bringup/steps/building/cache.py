"""Wheels that were built before: found again by source, torch, Python, CUDA, compiler and architectures."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bringup import state

# Parts of a source tree that no build reads, or that builds leave behind.
_NOT_SOURCE = {".git", ".hg", "build", "dist", "__pycache__", ".venv", "venv", ".tox", ".pytest_cache"}
_NOT_SOURCE_SUFFIXES = (".egg-info", ".pyc", ".o", ".so", ".pyd", ".obj")
# Settings of the user's that builds hear of.
_HEARD = (
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "CMAKE_ARGS",
    "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS",
)
_FORMAT = 1


def is_source(name: str) -> bool:
    """Whether an entry of a source tree belongs to it."""
    return name not in _NOT_SOURCE and not name.endswith(_NOT_SOURCE_SUFFIXES)


def hash_tree(root: Path) -> str:
    """SHA-256 of a source tree: relative names, contents, link targets and which files are executable."""
    digest = hashlib.sha256()
    for folder, names, files in os.walk(root):
        names[:] = sorted(filter(is_source, names))
        for name in sorted(filter(is_source, files)):
            path = Path(folder) / name
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            if path.is_symlink():
                digest.update(b"link" + os.fsencode(path.readlink()))
                continue
            digest.update(b"x" if os.access(path, os.X_OK) else b"-")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def cache_key(inputs: Mapping[str, Any]) -> str:
    """Key of a build: the hash of all that it depends on."""
    heard = {name: os.environ[name] for name in _HEARD if os.environ.get(name)}
    document = {"format": _FORMAT, "flags": heard, **inputs}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:24]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Kept:
    """A result in the cache. `product`: a wheel, or the folder that a plain CMake project installed."""

    product: Path
    record: dict[str, Any]


class BuildCache:
    """One folder per key: the product, and `build.json`, which is written last."""

    def __init__(self, key: str) -> None:
        self.root = state.cache() / "builds" / key

    @property
    def lock(self) -> Path:
        return self.root.with_name(f".{self.root.name}.lock")

    @property
    def workshop(self) -> Path:
        """Where the build is done; removed when it ends."""
        return self.root.with_name(f".{self.root.name}.work")

    @property
    def log(self) -> Path:
        """Kept whether the build succeeds or not."""
        return self.root.with_name(f"{self.root.name}.log")

    def find(self) -> Kept | None:
        """The result, if it is whole: a wheel whose bytes changed is no result."""
        try:
            record = json.loads((self.root / "build.json").read_text(encoding="utf-8"))
            product = self.root / record["product"]
            if product.is_file() and _digest(product) != record["sha256"]:
                return None
            return Kept(product, record) if product.exists() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, product: Path, record: Mapping[str, Any]) -> Kept:
        """Take a product in."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        kept = self.root / product.name
        if product.is_dir():
            shutil.copytree(product, kept, symlinks=True)
        else:
            shutil.copyfile(product, kept)
        full = {**record, "product": product.name, "sha256": _digest(kept) if kept.is_file() else None}
        state.write_atomically(self.root / "build.json", json.dumps(full, indent=1) + "\n")
        return Kept(kept, full)


def sweep() -> None:
    """Remove what builds that were killed left behind; those under way hold their locks."""
    for work in (state.cache() / "builds").glob(".*.work"):
        lock = FileLock(work.with_suffix(".lock"))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(work, ignore_errors=True)
        except Timeout:
            continue
