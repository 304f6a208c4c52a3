"""Prepared cases on disk: memory-mapped, keyed by content, checked, safe with several writers and kills.

One `.npy` file (numpy's format) and one `.json` a case. The array is stored in blocks of 2×32×32 voxels, one
page of memory each: an axial, a coronal and a sagittal slice all touch about a twelfth of the pages, where a
plain (C, D, H, W) array makes a sagittal slice touch every one.
"""

from __future__ import annotations

import glob
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from prostate_ssl.data.layout import Case, chosen_files
from prostate_ssl.data.order import AXIAL, CORONAL, gland_counts
from prostate_ssl.data.preparing import Preparation, PreparedCase, read_prepared
from prostate_ssl.errors import ProstateError
from prostate_ssl.files import write_atomically, write_json

BLOCK = (2, 32, 32)
VERSION = 1


def to_blocks(array: np.ndarray) -> np.ndarray:
    """(C, D, H, W) → (C, nD, nH, nW, 2, 32, 32), padded with zeros."""
    channels, *sizes = array.shape
    padded_sizes = [-(-size // block) * block for size, block in zip(sizes, BLOCK, strict=True)]
    padded = np.zeros((channels, *padded_sizes), dtype=array.dtype)
    padded[:, : sizes[0], : sizes[1], : sizes[2]] = array
    d, h, w = (size // block for size, block in zip(padded_sizes, BLOCK, strict=True))
    split = padded.reshape(channels, d, BLOCK[0], h, BLOCK[1], w, BLOCK[2])
    return np.ascontiguousarray(split.transpose(0, 1, 3, 5, 2, 4, 6))


@dataclass(frozen=True)
class CachedCase:
    """A prepared case whose pixels stay on disk until a slice is cut. Fields as in `PreparedCase`."""

    case_id: str
    blocks: np.ndarray
    shape: tuple[int, int, int, int]
    present: np.ndarray
    has_mask: bool
    spacing: tuple[float, float, float]
    origin: tuple[int, int, int]
    notes: tuple[str, ...]
    counts: tuple[np.ndarray, np.ndarray, np.ndarray] | None = field(repr=False, default=None)

    def whole(self) -> np.ndarray:
        """(M + 1, D, H, W) float16, read from disk."""
        c, d, h, w = self.shape
        n = self.blocks.shape
        joined = self.blocks.transpose(0, 1, 4, 2, 5, 3, 6).reshape(c, n[1] * n[4], n[2] * n[5], n[3] * n[6])
        return np.ascontiguousarray(joined[:, :d, :h, :w])

    def plane(self, axis: int, index: int) -> np.ndarray:
        """(M + 1, rows, columns) float16: one slice, as `cut_plane` of the whole array gives it."""
        c, d, h, w = self.shape
        block = BLOCK[axis]
        outer, inner = divmod(index, block)
        if axis == AXIAL:
            cut = self.blocks[:, outer, :, :, inner].transpose(0, 1, 3, 2, 4)
            return cut.reshape(c, cut.shape[1] * cut.shape[2], -1)[:, :h, :w]
        if axis == CORONAL:
            cut = self.blocks[:, :, outer, :, :, inner].transpose(0, 1, 3, 2, 4)
            return cut.reshape(c, cut.shape[1] * cut.shape[2], -1)[:, :d, :w][:, ::-1]
        cut = self.blocks[:, :, :, outer, :, :, inner].transpose(0, 1, 3, 2, 4)
        return cut.reshape(c, cut.shape[1] * cut.shape[2], -1)[:, :d, :h][:, ::-1]

    def gland_counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Gland voxels in every axial, coronal and sagittal slice; None without a mask."""
        return self.counts


class CaseCache:
    """A folder of prepared cases.

    Args:
        folder: made if missing.
        sequences: modalities, in order.
        prefer_computed_dwi: as in the dataset string.
        settings: of the preparation.
    """

    def __init__(
        self,
        folder: Path,
        sequences: Sequence[str],
        prefer_computed_dwi: bool = False,
        settings: Preparation | None = None,
    ) -> None:
        self.folder = folder
        self._sequences = tuple(sequences)
        self._prefer_computed = prefer_computed_dwi
        self._settings = settings or Preparation()
        # Arrays that were found whole, by name; they are not summed again while the file stays the same one.
        self._whole: dict[str, tuple[int, int, int]] = {}
        try:
            (folder / ".locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProstateError(f"The cache folder {folder} cannot be made: {error}.") from error

    def ensure(self, case: Case) -> tuple[CachedCase, bool]:
        """Open a case, building it if it is missing, stale or damaged.

        Returns:
            The case, and whether it was built now.

        Raises:
            UnreadableVolumeError: the case cannot be used.
            ProstateError: the cache cannot be written.
        """
        found = self.open(case)
        if found is not None:
            return found, False
        with self._one_writer(case) as alone:
            found = self.open(case)
            if found is not None:
                return found, False
            self._build(case, sweep=alone)
            found = self.open(case)
        if found is None:
            raise ProstateError(
                f"{case.folder} changed while it was being cached. Wait until it is complete, then run again."
            )
        return found, True

    @contextmanager
    def _one_writer(self, case: Case) -> Iterator[bool]:
        """Hold the case's lock: the system's, which falls with its process, so that a kill leaves none.

        Whether it is held: some file systems have no locks. There two writers may do the same work; whole
        files are renamed all the same.
        """
        lock = FileLock(self.folder / ".locks" / f"{self._stem(case)}.lock")
        with suppress(OSError):
            lock.acquire()
        try:
            yield lock.is_locked
        finally:
            lock.release()

    def open(self, case: Case) -> CachedCase | None:
        """The case as it stands in the cache; None if it is missing, stale or damaged."""
        meta = self._read_meta(case)
        if meta is None or meta["key"] != self._key(self._sources(case, meta)):
            return None
        blocks = self._map(meta["array"])
        if blocks is None:
            return None
        counts = meta["gland_counts"]
        return CachedCase(
            meta["case_id"],
            blocks,
            tuple(meta["array"]["shape"]),
            np.array(meta["present"], dtype=bool),
            meta["has_mask"],
            tuple(meta["spacing"]),
            tuple(meta["origin"]),
            tuple(meta["notes"]),
            None if counts is None else tuple(np.array(axis, dtype=np.int64) for axis in counts),  # type: ignore[arg-type]
        )

    def _map(self, described: dict[str, Any]) -> np.ndarray | None:
        """The array as its description says it is, or None."""
        path = self.folder / described["file"]
        try:
            stat = path.stat()
            blocks: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        identity = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if list(blocks.shape) != described["stored_shape"]:
            return None
        if self._whole.get(path.name) != identity and _checksum(blocks) != described["crc32"]:
            return None
        self._whole[path.name] = identity
        return blocks

    def _stem(self, case: Case) -> str:
        # Caches of other sequences may share the folder: the stem tells them apart.
        asked = hashlib.sha256("\0".join(self._sequences).encode()).hexdigest()[:8]
        return f"{case.case_id}.{asked}"

    def _read_meta(self, case: Case) -> dict[str, Any] | None:
        try:
            meta = json.loads((self.folder / f"{self._stem(case)}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(meta, dict) or meta.pop("digest", None) != _digest(meta):
            return None
        return meta if meta["version"] == VERSION else None

    def _sources(self, case: Case, meta: dict[str, Any] | None) -> list[dict[str, Any]]:
        """Chosen files with size, time and hash; a file is hashed only if size or time differ from `meta`."""
        known = {source["file"]: source for source in meta["sources"]} if meta else {}
        sources = []
        for name, path in chosen_files(case.folder, self._sequences, self._prefer_computed).items():
            stat = path.stat()
            source = {"name": name, "file": path.name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            old = known.get(path.name)
            same = old and (old["size"], old["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)
            if old and same and old["sha256"] != _UNREADABLE:  # permissions and networks come back
                source["sha256"] = old["sha256"]
            else:
                source["sha256"] = _hash_file(path)
            sources.append(source)
        return sources

    def _key(self, sources: list[dict[str, Any]]) -> str:
        content = {
            "version": VERSION,
            "settings": asdict(self._settings),
            "sequences": self._sequences,
            "sources": [(source["name"], source["sha256"]) for source in sources],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _build(self, case: Case, *, sweep: bool) -> None:
        sources = self._sources(case, None)
        key = self._key(sources)
        prepared = read_prepared(case, self._sequences, self._prefer_computed, self._settings)
        blocks = to_blocks(prepared.array)
        name = f"{self._stem(case)}.{key[:16]}.npy"
        try:
            write_atomically(self.folder / name, lambda file: np.save(file, blocks))
            meta = _meta(prepared, blocks, name, key, sources)
            write_json(self.folder / f"{self._stem(case)}.json", {**meta, "digest": _digest(meta)})
            if sweep:
                self._sweep(case, name)
        except OSError as error:
            raise ProstateError(
                f"The cache {self.folder} cannot be written: {error}. "
                f"A case takes {blocks.nbytes / 1e6:.0f} MB."
            ) from error

    def _sweep(self, case: Case, keep: str) -> None:
        """Remove older arrays of a case and what killed writers left; the case's lock is held."""
        stem = glob.escape(self._stem(case))
        for pattern in (f"{stem}.*.npy", f".{stem}.*.tmp"):
            for old in self.folder.glob(pattern):
                if old.name != keep:
                    old.unlink(missing_ok=True)


def _meta(
    prepared: PreparedCase, blocks: np.ndarray, name: str, key: str, sources: list[dict[str, Any]]
) -> dict[str, Any]:
    counts = gland_counts(prepared.array[-1] > 0.5) if prepared.has_mask else None
    return {
        "schema": "prostate-ssl/cached-case/1",
        "version": VERSION,
        "case_id": prepared.case_id,
        "key": key,
        "sources": sources,
        "array": {
            "file": name,
            "shape": list(prepared.array.shape),
            "stored_shape": list(blocks.shape),
            "crc32": _checksum(blocks),
        },
        "present": prepared.present.tolist(),
        "has_mask": prepared.has_mask,
        "spacing": list(prepared.spacing),
        "origin": list(prepared.origin),
        "notes": list(prepared.notes),
        "gland_counts": None if counts is None else [axis.tolist() for axis in counts],
    }


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _checksum(blocks: np.ndarray) -> int:
    return zlib.crc32(blocks.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


_UNREADABLE = "unreadable"


def _hash_file(path: Path) -> str:
    """SHA-256, or "unreadable": such a sequence is left out like a damaged one, not its case."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return _UNREADABLE
    return digest.hexdigest()
