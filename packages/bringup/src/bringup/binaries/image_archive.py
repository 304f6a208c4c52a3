"""Container images as `docker save` (and podman, buildah, skopeo) writes them, read without unpacking.

Both layouts: docker's `manifest.json` and OCI's `index.json`; layers plain, gzip or zstd. Layers are read
from the last to the first, so that each path is seen once, in the state that a container has.

Sources: Docker Image Specification 1.2; OCI Image Format Specification, «Image Layer Filesystem Changeset».
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from bringup.binaries import tar
from bringup.binaries.examine import examine, looks_scannable
from bringup.binaries.model import BinaryReport, Unreadable
from bringup.binaries.names import may_be_binary
from bringup.binaries.source import (
    Damaged,
    FileSource,
    SliceSource,
    Source,
    chunks_of,
    open_source,
    spilled,
)
from bringup.binaries.streams import ForwardSource, decompressed

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_LARGEST_DOCUMENT = 2 << 20
_MOST_PARTS = 100_000
_MOST_IMAGES = 100
_LARGEST_ARCHIVE = 200 << 30
_LARGEST_FILE = 8 << 30


@dataclass(frozen=True)
class ImageFile:
    """A file of the image. `source` is to be read before the next one is asked for.

    Attributes:
        target: of a symbolic link, as it is written; else None. hard_link: path that it is one with.
    """

    path: str
    size: int
    source: Source | None
    target: str | None = None
    hard_link: str | None = None


@dataclass(frozen=True)
class ImageArchive:
    """One image.

    Attributes:
        layers: first to last. missing: those that the manifest names and the archive lacks.
        configuration: names its environment variables and entry point.
        name: its first tag, where it has one.
        others: the further images of the same archive (`docker save one two`).
    """

    layers: tuple[Source, ...]
    configuration: dict[str, Any]
    name: str = ""
    others: tuple[ImageArchive, ...] = ()
    missing: tuple[str, ...] = ()


@contextmanager
def open_image(path: str | Path) -> Iterator[ImageArchive]:
    """Open an archive. A compressed one is first decompressed into a temporary file.

    Raises:
        Damaged: it is no image archive. OSError: it cannot be read.
    """
    with ExitStack() as stack:
        source: Source = stack.enter_context(open_source(path))
        opened = stack.enter_context(decompressed(source))
        if isinstance(opened, ForwardSource):
            opened = stack.enter_context(_spilled_whole(opened))
        yield _archive(opened, *_parts(opened))


def _parts(source: Source) -> tuple[dict[str, tar.TarMember], Damaged | None]:
    """The archive's files by path, and what ended the list before its end."""
    files: dict[str, tar.TarMember] = {}
    try:
        for row in islice(tar.members(source), _MOST_PARTS):
            if row.kind in ("file", "link", "hard-link"):
                files[row.path] = row
    except Damaged as damage:
        return files, damage
    return files, None


@contextmanager
def _spilled_whole(stream: ForwardSource) -> Iterator[Source]:
    """A whole decompressed archive: its table of contents stands at its end."""
    head = stream.read(0, 512)
    if len(head) < 512 or head[257:262] != b"ustar":
        raise Damaged("no image archive")

    def chunks() -> Iterator[bytes]:
        yield head
        at = len(head)
        while at < _LARGEST_ARCHIVE and (chunk := stream.read(at, 1 << 20)):
            at += len(chunk)
            yield chunk

    with tempfile.TemporaryFile(prefix="bringup-image-") as file:
        for chunk in chunks():
            file.write(chunk)
        file.flush()
        yield FileSource(file.fileno())


@dataclass(frozen=True)
class _Contents:
    """The outer archive's files, and how to read one of its JSON documents."""

    source: Source
    files: dict[str, tar.TarMember] = field(default_factory=dict)

    def find(self, path: str) -> Source | None:
        """One file's bytes; None where the archive lacks it."""
        row = self.files.get(tar.clean_path(path))
        seen = 0
        # Old docker archives link equal layers to one another.
        while row is not None and row.kind in ("link", "hard-link") and seen < 16:
            base = row.path.rsplit("/", 1)[0] if row.kind == "link" and "/" in row.path else ""
            row = self.files.get(tar.clean_path(f"{base}/{row.target}"))
            seen += 1
        return SliceSource(self.source, row.offset, row.size) if row and row.kind == "file" else None

    def json(self, path: str) -> Any:
        part = self.find(path)
        if part is None:
            raise Damaged(f"{path} is missing from the archive")
        if part.size > _LARGEST_DOCUMENT:
            raise Damaged(f"{path} has {part.size} bytes")
        try:
            return json.loads(part.read(0, part.size))
        except (ValueError, RecursionError) as error:
            raise Damaged(f"{path} is no JSON: {error}") from error


def _archive(source: Source, files: dict[str, tar.TarMember], damage: Damaged | None) -> ImageArchive:
    """The image that the manifest describes: an archive that is cut off has a part of its layers."""
    contents = _Contents(source, files)
    try:
        if "manifest.json" in files:
            images = [_docker(contents, row) for row in contents.json("manifest.json")[:_MOST_IMAGES]]
            return replace(images[0], others=tuple(images[1:]))
        if "index.json" in files:
            return _oci(contents, contents.json("index.json"), depth=0)
    except (LookupError, TypeError, AttributeError) as error:
        raise Damaged(f"its manifest lacks {error}") from error
    raise damage or Damaged("no image archive: neither manifest.json nor index.json is in it")


def _docker(contents: _Contents, row: dict[str, Any]) -> ImageArchive:
    tags = row.get("RepoTags") or [""]
    names = [str(name) for name in row["Layers"]]
    return _image(contents, names, str(row.get("Config", "")), str(tags[0]))


def _image(contents: _Contents, names: list[str], configuration: str, tag: str = "") -> ImageArchive:
    found = [(name, contents.find(name)) for name in names]
    layers = tuple(source for _, source in found if source)
    missing = tuple(name for name, source in found if source is None)
    return ImageArchive(layers, _configuration(contents, configuration), tag, missing=missing)


def _configuration(contents: _Contents, path: str) -> dict[str, Any]:
    try:
        document = contents.json(path)
    except Damaged:
        return {}
    return document if isinstance(document, dict) else {}


def _blob(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"blobs/{algorithm}/{value}"


def _oci(contents: _Contents, index: dict[str, Any], depth: int) -> ImageArchive:
    """Follow an index to its first manifest with layers (an index may hold indexes, one per platform)."""
    if depth > 4:
        raise Damaged("its indexes are nested too deeply")
    for row in index["manifests"]:
        if row.get("annotations", {}).get("vnd.docker.reference.type") == "attestation-manifest":
            continue
        document = contents.json(_blob(str(row["digest"])))
        if "manifests" in document:
            return _oci(contents, document, depth + 1)
        names = [_blob(str(layer["digest"])) for layer in document["layers"]]
        return _image(contents, names, _blob(str(document["config"]["digest"])))
    raise Damaged("its index names no image")


@dataclass
class _Hidden:
    """What the layers above have said about a path. `keeps`: there are layers below that must know."""

    keeps: bool = True
    taken: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)

    def hides(self, path: str) -> bool:
        if path in self.taken:
            return True
        at = len(path)
        inner = path
        while at > 0:
            if inner in self.removed:
                return True
            # A file in place of a folder hides what the layers below had in it.
            if inner is not path and (inner in self.replaced or inner in self.taken):
                return True
            at = inner.rfind("/")
            inner = inner[:at] if at > 0 else ""
        return "" in self.replaced


def surviving_files(image: ImageArchive, unreadable: list[Unreadable]) -> Iterator[ImageFile]:
    """Every file and link that a container would see, each once, later layers first.

    Args:
        unreadable: filled with the layers that are missing or could not be read to their end.
    """
    unreadable += (Unreadable(name, "missing from the archive: cut off?") for name in image.missing)
    hidden = _Hidden()
    for number in range(len(image.layers) - 1, -1, -1):
        here = _Hidden(keeps=number > 0)
        try:
            with decompressed(image.layers[number]) as layer:
                yield from _files_of_layer(layer, hidden, here)
        except (Damaged, OSError, ValueError) as error:
            unreadable.append(Unreadable(f"layer {number + 1}", str(error)))
        hidden.taken |= here.taken
        hidden.removed |= here.removed
        hidden.replaced |= here.replaced


def _files_of_layer(layer: Source, hidden: _Hidden, here: _Hidden) -> Iterator[ImageFile]:
    for row in tar.members(layer):
        folder, _, name = row.path.rpartition("/")
        if name == _OPAQUE:
            here.replaced.add(folder)
        elif name.startswith(_WHITEOUT):
            here.removed.add(f"{folder}/{name[len(_WHITEOUT) :]}".lstrip("/"))
        elif row.kind != "other" and not hidden.hides(row.path):
            if row.kind == "folder":
                continue
            if here.keeps:
                here.taken.add(row.path)
            source = SliceSource(layer, row.offset, row.size) if row.kind == "file" else None
            target = row.target if row.kind == "link" else None
            hard = tar.clean_path(row.target) if row.kind == "hard-link" else None
            yield ImageFile(row.path, row.size, source, target, hard)


def scan_image(
    path: str | Path, on_file: Callable[[str], None] | None = None
) -> Iterator[BinaryReport | Unreadable]:
    """Every binary in the image, as "archive.tar/usr/lib/name.so"; of several, "archive.tar/tag:1/usr/…"."""
    unreadable: list[Unreadable] = []
    try:
        with open_image(path) as first:
            for image in (first, *first.others):
                root = f"{path}/{image.name}" if first.others else str(path)
                for file in surviving_files(image, unreadable):
                    if file.source is None or not may_be_binary(file.path.rsplit("/", 1)[-1]):
                        continue
                    if on_file:
                        on_file(file.path)
                    yield from scan_image_file(file, f"{root}/{file.path}")
    except (Damaged, OSError) as error:
        unreadable.append(Unreadable(str(path), str(error)))
    for row in unreadable:
        yield Unreadable(row.path if row.path == str(path) else f"{path}: {row.path}", row.reason)


def scan_image_file(file: ImageFile, shown: str) -> Iterator[BinaryReport | Unreadable]:
    """One file of an image, if it is a binary."""
    if file.source is None:
        return
    try:
        head = file.source.read(0, min(64, file.size))
        if not (looks_scannable(head) or file.path.lower().endswith(".ptx")):
            return
        with _with_head(file.source, head) as source:
            yield examine(source, shown)
    except (Damaged, OSError, ValueError) as error:
        yield Unreadable(shown, str(error))


@contextmanager
def _with_head(source: Source, head: bytes) -> Iterator[Source]:
    """Readable in any order, after its first bytes were read (a stream does not give them twice)."""
    if not (isinstance(source, SliceSource) and isinstance(source.whole, ForwardSource)):
        yield source
        return
    if source.size > _LARGEST_FILE:
        raise Damaged(f"claims {source.size} bytes")

    def chunks() -> Iterator[bytes]:
        yield head
        yield from chunks_of(source, len(head), source.size - len(head))

    with spilled(chunks(), source.size) as spill:
        yield spill
