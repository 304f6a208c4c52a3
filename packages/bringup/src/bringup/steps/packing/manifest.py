"""`pack.json`: what a pack holds, file by file; read again before a pack is trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bringup import state
from bringup.errors import BringupError
from bringup.recipes.fields import Sha256
from bringup.steps.downloads import sha256_of

NAME = "pack.json"
FOLDERS = ("sources", "wheels", "weights")


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackedFile(_Row):
    """One file. `path`: below the pack, with forward slashes; `size`: bytes."""

    path: str
    size: int
    sha256: Sha256


class Lacking(_Row):
    """What could not be brought: an error's id and its text in the language of that run."""

    part: str
    error: str
    text: str


class PackManifest(_Row):
    """Schema `bringup/pack/1`."""

    schema_: Literal["bringup/pack/1"] = Field(default="bringup/pack/1", alias="schema")
    recipe: str
    profile: str
    platform: str
    python: str
    gpus: tuple[str, ...] = ()
    files: tuple[PackedFile, ...] = ()
    lacking: tuple[Lacking, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def _files(folder: Path) -> Iterator[Path]:
    for name in FOLDERS:
        for file in sorted((folder / name).rglob("*")):
            if file.is_file() and not file.name.endswith(".partial"):
                yield file
    if (folder / "plan.toml").is_file():
        yield folder / "plan.toml"


def list_files(folder: Path, before: PackManifest | None) -> tuple[PackedFile, ...]:
    """Every file with its hash; one that did not change since the last manifest is not read again."""
    known = {file.path: file for file in before.files} if before else {}
    written = (folder / NAME).stat().st_mtime_ns if before else 0
    rows = []
    for file in _files(folder):
        path = file.relative_to(folder).as_posix()
        facts = file.stat()
        row = known.get(path)
        if row is None or row.size != facts.st_size or facts.st_mtime_ns >= written:
            row = PackedFile(path=path, size=facts.st_size, sha256=sha256_of(file))
        rows.append(row)
    return tuple(rows)


def write_manifest(folder: Path, manifest: PackManifest) -> None:
    """Write it atomically."""
    document = manifest.model_dump(mode="json", by_alias=True)
    state.write_atomically(folder / NAME, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> PackManifest | None:
    """The manifest of a pack; None where none was finished.

    Raises:
        BringupError: `pack-invalid`.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        return PackManifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise BringupError("pack-invalid", exit_code=2, path=path, text=str(error).splitlines()[0]) from error


def check_pack(folder: Path, thoroughly: bool = False) -> PackManifest:
    """Compare a pack with its manifest: sizes, and with `thoroughly` every hash.

    Raises:
        BringupError: `no-pack`, `pack-invalid`, or `pack-damaged`, naming what is missing or changed.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise BringupError("no-pack", exit_code=2, path=folder)
    wrong = []
    for row in manifest.files:
        file = folder / row.path
        whole = file.is_file() and file.stat().st_size == row.size
        if not whole or (thoroughly and sha256_of(file) != row.sha256):
            wrong.append(row.path)
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" (+{len(wrong) - 5})" if len(wrong) > 5 else "")
        raise BringupError("pack-damaged", path=folder, files=shown, count=len(wrong))
    return manifest
