"""One checkpoint → `NAME.safetensors` (the model's state dict), `NAME.rest.safetensors` (all other tensors,
if there are any) and `NAME.json` (what they are). All of them or none; `NAME.json` comes last."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bringup.checkpoints import safetensors
from bringup.checkpoints.checkpoint import Checkpoint, open_checkpoint
from bringup.checkpoints.hashing import SourceDigest
from bringup.checkpoints.layout import StoredTensor
from bringup.checkpoints.source import Buffers, DeflatedSlice, FileSlice, SourceFile
from bringup.checkpoints.verdicts import UNNEEDED
from bringup.errors import BringupError

SCHEMA = "bringup/checkpoint/1"
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Conversion:
    """What became of one checkpoint; `seconds` of wall-clock time."""

    source: Path
    description: Path
    files: tuple[Path, ...]
    verdict: str
    tensors: int
    bytes: int
    seconds: float


def convert(
    path: Path,
    folder: Path,
    name: str | None = None,
    accept_calls: bool = False,
    advance: Advance = lambda count: None,
) -> Conversion:
    """Convert one checkpoint.

    Args:
        name: of the files in `folder`; without it, the checkpoint's without its ending.
        accept_calls: go on although the pickle names calls that no checkpoint needs (none is ever made).
        advance: told the number of bytes written after each piece.

    Raises:
        BringupError: `checkpoint-…`; then nothing was written.
    """
    began = time.monotonic()
    name = name or path.stem or path.name
    with open_checkpoint(path) as checkpoint:
        if checkpoint.verdict == UNNEEDED and not accept_calls:
            calls = [
                f"{use.module}.{use.name}".strip(".") for use in checkpoint.globals if use.verdict == UNNEEDED
            ]
            raise BringupError(
                "checkpoint-unneeded-calls", names=", ".join(calls[:5])[:500], count=len(calls)
            )
        files = _convert_into(checkpoint, folder, name, advance)
    return Conversion(
        path,
        folder / f"{name}.json",
        files,
        checkpoint.verdict,
        len(checkpoint.tensors),
        sum(file.stat().st_size for file in files),
        time.monotonic() - began,
    )


def _convert_into(checkpoint: Checkpoint, folder: Path, name: str, advance: Advance) -> tuple[Path, ...]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_disk(checkpoint, folder)
        with tempfile.TemporaryDirectory(prefix=f".{name[:40]}.", suffix=".partial", dir=folder) as partial:
            written = _write_files(checkpoint, Path(partial), name, advance)
            return _publish(Path(partial), folder, name, written)
    except OSError as error:
        raise BringupError("checkpoint-unwritable", folder=folder, text=error.strerror or error) from error


def convert_all(
    paths: list[Path], folder: Path, accept_calls: bool = False, advance: Advance = lambda count: None
) -> list[Conversion | BringupError]:
    """Convert several checkpoints in parallel; one that fails does not stop the others.

    Names that occur twice are told apart by the ending, then by the folder: `fold_0-model`.
    """
    names = output_names(paths)

    def one(path: Path, name: str) -> Conversion | BringupError:
        try:
            return convert(path, folder, name, accept_calls, advance)
        except BringupError as error:
            return error

    workers = max(1, min(len(paths), (os.cpu_count() or 2), 8))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, paths, names))


def output_names(paths: list[Path]) -> list[str]:
    """A name for each path, all different.

    Raises:
        BringupError: `checkpoint-named-twice` when the same file is given twice.
    """
    resolved = [path.absolute() for path in paths]
    for candidates in (
        [path.stem for path in resolved],
        [path.name for path in resolved],
        [f"{path.parent.name}-{path.stem}" for path in resolved],
        ["-".join(path.parts[1:]) for path in resolved],
    ):
        # Some file systems do not tell capitals from small letters.
        if len({name.casefold() for name in candidates}) == len(paths):
            return candidates
    twice = next(path for path, count in Counter(resolved).items() if count > 1)
    raise BringupError("checkpoint-named-twice", exit_code=2, file=twice)


def _check_disk(checkpoint: Checkpoint, folder: Path) -> None:
    stored = checkpoint.layout.stored
    needed = sum(entry.size for entry in stored) + sum(data.size for data in _deflated(stored))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BringupError(
            "checkpoint-disk", folder=folder, needed=f"{needed / 1e9:.1f}", free=f"{free / 1e9:.1f}"
        )


def _write_files(checkpoint: Checkpoint, partial: Path, name: str, advance: Advance) -> list[Path]:
    """Write the two or three files into the partial folder; the description last."""
    before = _stamp(checkpoint.path)
    with SourceDigest(checkpoint.file) as digest, contextlib.ExitStack() as stack:
        stored = checkpoint.layout.stored
        spilled = _spill(stored, partial, stack, checkpoint.file.buffers)
        files: list[Path] = []
        table: dict[str, Any] = {}
        for ending, in_model in (("safetensors", True), ("rest.safetensors", False)):
            entries = [entry for entry in stored if entry.in_model is in_model]
            if not entries and not in_model:
                continue
            path = partial / f"{name}.{ending}"
            hashes = _write_tensors(path, entries, name, spilled, advance, checkpoint.file.buffers)
            files.append(path)
            for entry in entries:
                row = {"file": path.name, "dtype": entry.dtype, "shape": list(entry.shape)}
                table[entry.name] = {**row, "sha256": hashes[entry.name]}
        source_hash = digest.hexdigest()
    if _stamp(checkpoint.path) != before:
        raise BringupError("checkpoint-changed")
    document = _document(checkpoint, table, source_hash, files)
    description = partial / f"{name}.json"
    # Half of a surrogate pair has no UTF-8; with this error handler it becomes JSON's escape for it.
    with description.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
        json.dump(document, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
    return [*files, description]


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _write_tensors(
    path: Path,
    entries: list[StoredTensor],
    name: str,
    spilled: dict[int, FileSlice],
    advance: Advance,
    buffers: Buffers,
) -> dict[str, str]:
    by_name = {entry.name: entry for entry in entries}
    shown = name.encode("utf-8", "backslashreplace").decode("utf-8")
    metadata = {"format": "pt", "bringup": f"{shown}.json"}
    # In the order of the source, its pieces are read once for both hashes.
    in_order = sorted(entries, key=lambda entry: entry.view.start_in_file)
    rows: list[safetensors.Entry] = list(in_order)

    def chunks(entry: safetensors.Entry) -> Iterator[memoryview]:
        return by_name[entry.name].chunks(spilled)

    return safetensors.write(path, rows, metadata, chunks, advance, buffers.hold)


def _deflated(stored: list[StoredTensor]) -> list[DeflatedSlice]:
    """The compressed storages that the entries look at, each once."""
    found: dict[int, DeflatedSlice] = {}
    for entry in stored:
        data = entry.view.storage.base.data if entry.view.storage else None
        if isinstance(data, DeflatedSlice):
            found[id(data)] = data
    return list(found.values())


def _spill(
    stored: list[StoredTensor], folder: Path, stack: contextlib.ExitStack, buffers: Buffers
) -> dict[int, FileSlice]:
    """Inflate compressed storages into files that vanish with the partial folder."""
    spilled: dict[int, FileSlice] = {}
    for number, data in enumerate(_deflated(stored)):
        path = folder / f".inflated.{number}"
        with path.open("wb") as stream:
            for piece in data.chunks():
                stream.write(piece)
        file = stack.enter_context(SourceFile(path, buffers))
        spilled[id(data)] = FileSlice(file, 0, file.size)
    return spilled


def _document(
    checkpoint: Checkpoint, table: dict[str, Any], source_hash: str, files: list[Path]
) -> dict[str, Any]:
    contents = checkpoint.contents
    model = checkpoint.model
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "source": {
            "file": checkpoint.path.name,
            "folder": checkpoint.path.absolute().parent.name,
            "format": contents.format,
            "byte_order": contents.byte_order,
            "bytes": checkpoint.file.size,
            "sha256": source_hash,
            "trailing_bytes": contents.trailing_bytes,
        },
        "verdict": checkpoint.verdict,
        "globals": globals_json(checkpoint),
        "files": [file.name for file in files],
        "model": list(model.path) if model else None,
        "tensors": checkpoint.layout.descriptions,
        "stored": table,
        "tree": checkpoint.tree,
    }
    if contents.sources:
        document["class_sources"] = contents.sources
    return document


def globals_json(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Every global with its verdict."""
    return [
        {
            "module": use.module,
            "name": use.name,
            "verdict": use.verdict,
            "reason": use.reason,
            "uses": sorted(use.uses),
            "count": use.count,
        }
        for use in checkpoint.globals
    ]


def _publish(partial: Path, folder: Path, name: str, written: list[Path]) -> tuple[Path, ...]:
    """Move finished files under their names. A description that is older than its tensors never stands."""
    for stale in (folder / f"{name}.json", folder / f"{name}.rest.safetensors"):
        stale.unlink(missing_ok=True)
    final = []
    for path in written:
        target = folder / path.name
        path.replace(target)
        final.append(target)
    return tuple(final[:-1])
