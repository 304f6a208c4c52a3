"""How large the image will be, layer by layer, before it is built.

A wheel tells its unpacked size in its central directory, which ends the file: two small range requests each.
Source: PKWARE APPNOTE 6.3.9, 4.3.12 (central directory).
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse
from urllib.request import Request, url2pathname, urlopen

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from bringup import state
from bringup.errors import BringupError
from bringup.facts.interpreters import Interpreter
from bringup.plan.resolve import Resolved, Resolver
from bringup.plan.sizes import certificates
from bringup.steps.image.spec import ImageSpec

_BLOCK = 1 << 16
# Bytecode to source, of torch 2.13 and what it requires (124 MB to 87 MB).
_BYTECODE = 1.4
# Wheels of one torch with all that it requires, unpacked: what stands in where no index answers.
# Read from the wheels' central directories on the package index, 2026-11-21: torch 2.14.1 (CUDA 13.0),
# 2.9.1 (CUDA 12.8), 2.13.0+cpu with its requirements.
TYPICAL_TORCH = {"13": 5_500_000_000, "12": 7_000_000_000, "cpu": 800_000_000}


@dataclass(frozen=True)
class Layer:
    """A part of the image.

    Attributes:
        id: "base", "torch", "packages", "own", "models".
        bytes: unpacked; None where nothing tells. Of "packages" at most: a base may hold some already.
        origin: where the number is from: "image" (the engine has it), "recipe", "index" (read from each
            wheel), "typical" (a table), "source" (a folder here), "unknown".
        count: how many distributions or files.
    """

    id: str
    bytes: int | None
    origin: str
    count: int = 0

    @property
    def added(self) -> bool:
        """Whether it comes on top of the base."""
        return self.id != "base"


def added_bytes(layers: Sequence[Layer]) -> int:
    """What the build adds to its base."""
    return sum(layer.bytes or 0 for layer in layers if layer.added)


class _RangeFile(io.RawIOBase):
    """A file behind a server that answers range requests; blocks are kept."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._context = certificates()
        with self._ask(f"bytes=-{_BLOCK}") as answer:
            span, _, total = (answer.headers.get("Content-Range") or "").partition("/")
            if answer.status != 206 or not total.isdigit():
                raise OSError("the server answers no range requests")
            self._start = int(span.partition(" ")[2].partition("-")[0])
            self._tail = answer.read()
        self._length = int(total)
        self._at = 0

    def _ask(self, span: str) -> HTTPResponse:
        request = Request(self._url, headers={"Range": span})
        answer: HTTPResponse = urlopen(request, timeout=10, context=self._context)
        return answer

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._length)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._length if size is None or size < 0 else min(self._length, self._at + size)
        if self._at >= self._start:
            data = self._tail[self._at - self._start : end - self._start]
        else:
            with self._ask(f"bytes={self._at}-{end - 1}") as answer:
                data = bytes(answer.read())
        self._at += len(data)
        return data


def _installed(archive: zipfile.ZipFile) -> int:
    """Bytes of a wheel's files and of the bytecode that pip writes beside its modules."""
    rows = archive.infolist()
    source = sum(row.file_size for row in rows if row.filename.endswith(".py"))
    return sum(row.file_size for row in rows) + round(_BYTECODE * source)


def _unpacked(url: str) -> int | None:
    location = urlparse(url)
    try:
        if location.scheme == "file":
            with zipfile.ZipFile(url2pathname(location.path)) as archive:
                return _installed(archive)
        with zipfile.ZipFile(_RangeFile(url)) as archive:
            return _installed(archive)
    except (OSError, URLError, ValueError, zipfile.BadZipFile):
        return None


def unpacked_sizes(urls: Sequence[str]) -> list[int | None]:
    """Bytes of each wheel's files, None where they cannot be told. Sixteen wheels at a time."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(_unpacked, urls))


def _tree_size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def _nearest(interpreters: Sequence[Interpreter], version: str) -> Interpreter | None:
    """The interpreter here that is most like the base's: sizes of wheels hardly differ between minors."""
    able = [python for python in interpreters if python.makes_environments]
    if not able:
        return None
    wanted = (Version(version).minor if version else 12) if version else 12
    return min(able, key=lambda python: abs(python.minor[1] - wanted))


def _held(spec: ImageSpec) -> dict[str, str]:
    """Distributions that the base has and keeps, as far as the recipe says it."""
    image = spec.recipe.image
    if image is None or spec.base != image.reference:
        return {}
    held = {canonicalize_name(name): version for name, version in image.versions.items()}
    return {name: version for name, version in held.items() if name not in spec.drop}


def _as_installed(held: Mapping[str, str]) -> tuple[str, ...]:
    """A folder in which pip finds these names and versions alone: what fits is not resolved further."""
    if not held:
        return ()
    folder = state.cache() / "bases" / f"{zlib.crc32(repr(sorted(held.items())).encode()):08x}"
    for name, version in held.items():
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        state.write_atomically(folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA", text)
    return (str(folder),)


def _resolved(spec: ImageSpec, interpreters: Sequence[Interpreter]) -> list[Resolved] | None:
    """What the index would give to an interpreter here; None where it gives no answer."""
    interpreter = _nearest(interpreters, spec.python_version)
    if interpreter is None or not interpreter.platform.startswith("linux"):
        return None  # Elsewhere torch requires other packages.
    resolver = Resolver(interpreter, spec.find_links, spec.offline, _as_installed(_held(spec)))
    own = [text for package in spec.own for text in package.requirements]
    names = {canonicalize_name(package.name) for package in spec.own}
    wanted = [text for text in own if canonicalize_name(Requirement(text).name) not in {*names, "torch"}]
    try:
        resolver.prepare()
        return resolver.resolve([*spec.requirements, *wanted], index=spec.index)
    except BringupError:
        return None


def _package_layers(spec: ImageSpec, interpreters: Sequence[Interpreter]) -> list[Layer]:
    rows = _resolved(spec, interpreters)
    if rows is None:
        if spec.torch is None:
            return [Layer("packages", None, "unknown", len(spec.requirements))]
        typical = TYPICAL_TORCH[(spec.torch.cuda or "cpu").split(".")[0]]
        count = len(spec.requirements) - 1
        return [Layer("torch", typical, "typical", 1), Layer("packages", None, "unknown", count)]
    sizes = unpacked_sizes([row.url for row in rows])
    heavy = [row.name == "torch" or row.name.startswith(("nvidia-", "triton", "cuda-")) for row in rows]
    torch = [size for size, is_heavy in zip(sizes, heavy, strict=True) if is_heavy]
    rest = [size for size, is_heavy in zip(sizes, heavy, strict=True) if not is_heavy]
    layers = []
    for name, listed in (("torch", torch), ("packages", rest)):
        known = [size for size in listed if size is not None]
        origin = "index" if len(known) == len(listed) else "unknown"
        layers.append(Layer(name, sum(known) if known or not listed else None, origin, len(listed)))
    return layers


def base_layer(spec: ImageSpec, measured: int | None) -> Layer:
    """The base: as the engine has it, else as the recipe says."""
    if measured is not None:
        return Layer("base", measured, "image")
    image = spec.recipe.image
    if image and image.size_gb and spec.base == image.reference:
        return Layer("base", int(image.size_gb * 1e9), "recipe")
    return Layer("base", None, "unknown")


def layers(
    spec: ImageSpec, interpreters: Sequence[Interpreter], base: int | None = None
) -> tuple[Layer, ...]:
    """The base and everything that is laid over it.

    Args:
        base: bytes of the base image, where an engine here has it.
    """
    rows = [base_layer(spec, base), *_package_layers(spec, interpreters)]
    if spec.own:
        rows.append(
            Layer("own", sum(_tree_size(package.path) for package in spec.own), "source", len(spec.own))
        )
    if spec.checkpoints:
        rows.append(Layer("models", None, "unknown", len(spec.checkpoints)))
    return tuple(rows)
