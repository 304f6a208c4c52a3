"""The containers in which pickles and tensors come: zip, TorchScript, legacy stream, tar, plain pickle."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Any

from bringup.checkpoints import formats, limits, rebuilders, tarfiles
from bringup.checkpoints.machine import Machine
from bringup.checkpoints.records import Global, text_of
from bringup.checkpoints.source import ByteReader, Bytes, FileSlice, Literal
from bringup.checkpoints.tensors import ELEMENT_TYPES, STORAGE_TYPES, Storage, Tensor, check_sizes, refuse
from bringup.checkpoints.torch_calls import TorchResolver
from bringup.checkpoints.verdicts import GlobalLog
from bringup.checkpoints.zipfiles import ZipArchive, ambiguous
from bringup.errors import BringupError

Region = FileSlice | Literal


@dataclass
class Contents:
    """What a container holds.

    Attributes:
        root: the unpickled value, of containers and records.
        format: "zip", "torchscript", "legacy", "tar" or "pickle".
        constants: of a TorchScript archive.
        script_code: TorchScript source files by name.
        sources: Python source of classes, which legacy files carry; by dotted name.
    """

    root: Any
    format: str
    byte_order: str = "little"
    constants: Any = None
    script_code: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    trailing_bytes: int = 0


class ContainerReader:
    """Reads one file; nested checkpoints share its log and budget."""

    def __init__(self) -> None:
        self.log = GlobalLog()
        self.budget = limits.Budget()
        self._depth = 0

    def read(self, data: Region) -> Contents:
        """The contents of a file or of a nested checkpoint.

        Raises:
            BringupError: what the file is instead, or what is wrong with it.
        """
        kind = formats.recognise(data)
        if kind == formats.ZIP:
            return self._read_zip(data)
        if kind == formats.TAR:
            return self._read_tar(data)
        return self._read_legacy(data) if kind == formats.LEGACY else self._read_pickle(data)

    def _nested(self, data: Region) -> Any:
        self._depth += 1
        if self._depth > limits.MAX_NESTED_PICKLES:
            raise limits.exceeded("nested-pickles", limits.MAX_NESTED_PICKLES)
        try:
            return self.read(data).root
        finally:
            self._depth -= 1

    def _run(self, reader: ByteReader, resolver: TorchResolver) -> Any:
        return rebuilders.finished(Machine(reader, resolver, self.log, self.budget).run())

    def _read_zip(self, data: Region) -> Contents:
        archive = ZipArchive(data)
        pickle_name = _find_pickle(archive)
        folder = pickle_name.removesuffix("data.pkl")
        order = _byte_order(archive, folder)
        resolver = self._zip_resolver(archive, folder + "data/", order)
        root = self._run(_member_reader(archive, pickle_name), resolver)
        contents = Contents(root, "zip", order)
        if f"{folder}constants.pkl" in archive.members:
            contents.format = "torchscript"
            constants = self._zip_resolver(archive, folder + "constants/", order)
            contents.constants = self._run(_member_reader(archive, f"{folder}constants.pkl"), constants)
            contents.script_code = _script_code(archive, folder)
        return contents

    def _zip_resolver(self, archive: ZipArchive, prefix: str, order: str) -> TorchResolver:
        def find(key: str, size: int) -> tuple[Bytes | None, bool]:
            name = prefix + key
            if name not in archive.members:
                if size == 0:
                    return Literal(b""), False
                raise refuse(f"storage {key!r} is not in the archive")
            return archive.bytes_of(name), order == "big"

        return TorchResolver(find, self._nested)

    def _read_legacy(self, data: Region) -> Contents:
        """Magic number, protocol, system, value, storage keys; then each storage: count and bytes.

        The bytes are little-endian on every machine (`THPStorage_writeFileRaw`).
        """
        resolver = TorchResolver(lambda key, size: (None, False), self._nested)
        reader = ByteReader(data)
        self._run(reader, resolver)
        if self._run(reader, resolver) != 1001:
            raise BringupError("checkpoint-malformed", at=reader.position, reason="unknown legacy protocol")
        self._run(reader, resolver)
        root = self._run(reader, resolver)
        keys = self._run(reader, resolver)
        if not isinstance(keys, list):
            raise BringupError("checkpoint-malformed", at=reader.position, reason="no list of storages")
        for key in keys:
            storage = resolver.storages.get(text_of(key))
            if storage is None:
                raise refuse(f"storage {text_of(key)[:100]!r} is not used by the pickle")
            _take_storage(reader, storage)
        _require_data(resolver)
        return Contents(
            root, "legacy", sources=resolver.sources, trailing_bytes=reader.size - reader.position
        )

    def _read_pickle(self, data: Region) -> Contents:
        resolver = TorchResolver(lambda key, size: (None, False), self._nested)
        reader = ByteReader(data)
        root = self._run(reader, resolver)
        if resolver.storages:
            raise refuse("the pickle refers to storages that are not in the file")
        trailing = reader.size - reader.position
        self._look_at_what_follows(reader, resolver)
        return Contents(root, "pickle", trailing_bytes=trailing)

    def _look_at_what_follows(self, reader: ByteReader, resolver: TorchResolver) -> None:
        """Log the globals of further pickles.

        `torch.load` reads on when the first one gives its magic number, however it is made: by a call,
        for example, whose value is not known here.
        """
        while reader.position < reader.size and self._is_pickle(reader, resolver):
            pass

    def _is_pickle(self, reader: ByteReader, resolver: TorchResolver) -> bool:
        try:
            self._run(reader, resolver)
        except BringupError as error:
            if error.id == "checkpoint-limit":
                raise
            return False
        return True

    def _read_tar(self, data: Region) -> Contents:
        """`torch.save` before 0.1.10: members `storages`, `tensors` and `pickle`."""
        members = tarfiles.read_members(data)
        if not {"storages", "tensors", "pickle"} <= set(members):
            raise BringupError("checkpoint-other-archive", kind="a tar archive")
        resolver = TorchResolver(lambda key, size: (None, False), self._nested)
        self._read_tar_storages(ByteReader(members["storages"]), resolver)
        self._read_tar_tensors(ByteReader(members["tensors"]), resolver)
        root = self._run(ByteReader(members["pickle"]), resolver)
        return Contents(root, "tar", sources=resolver.sources)

    def _read_tar_storages(self, reader: ByteReader, resolver: TorchResolver) -> None:
        for _ in range(_count(self._run(reader, resolver))):
            key, location, kind = _triple(self._run(reader, resolver))
            dtype = STORAGE_TYPES.get(kind.name) if isinstance(kind, Global) else None
            if dtype is None:
                raise refuse("a storage of an unknown type")
            storage = Storage(text_of(key), dtype, 0, text_of(location))
            storage.count = _count(struct.unpack("<q", reader.read(8))[0])
            storage.data = reader.take(storage.nbytes)
            resolver.by_reference[text_of(key)] = storage
        for view in _listed(self._run(reader, resolver)):
            if not isinstance(view, tuple) or len(view) != 4:
                raise refuse("a storage view is not described by name, root, offset and size")
            target, root_key, offset, count = view
            root = resolver.by_reference.get(text_of(root_key))
            if not isinstance(root, Storage) or _count(offset) + _count(count) > root.count:
                raise refuse("a view reaches beyond its storage")
            start = root.start + offset * ELEMENT_TYPES[root.dtype].size
            resolver.by_reference[text_of(target)] = Storage(
                text_of(target), root.dtype, count, root.location, start=start, root=root.base
            )

    def _read_tar_tensors(self, reader: ByteReader, resolver: TorchResolver) -> None:
        for _ in range(_count(self._run(reader, resolver))):
            key, storage_key, _kind = _triple(self._run(reader, resolver))
            storage = resolver.by_reference.get(text_of(storage_key))
            (dimensions,) = struct.unpack("<i4x", reader.read(8))
            if not isinstance(storage, Storage) or not 0 <= dimensions <= limits.MAX_DIMENSIONS:
                raise refuse("a tensor has no storage")
            sizes = struct.unpack(f"<{dimensions}q", reader.read(8 * dimensions))
            strides = struct.unpack(f"<{dimensions}q", reader.read(8 * dimensions))
            (offset,) = struct.unpack("<q", reader.read(8))
            if offset < 0:
                raise refuse("a tensor begins before its storage")
            resolver.by_reference[text_of(key)] = Tensor(
                storage.dtype, check_sizes(sizes, "shape"), storage, offset, check_sizes(strides, "strides")
            )


def _find_pickle(archive: ZipArchive) -> str:
    """The one `data.pkl` of a PyTorch archive.

    Raises:
        BringupError: `checkpoint-other-archive` for zip files of another kind.
    """
    found = [name for name in archive.members if name == "data.pkl" or name.endswith("/data.pkl")]
    top = [name for name in found if name.count("/") <= 1]
    if len(top) == 1:
        return top[0]
    if len(top) > 1:
        raise ambiguous("it holds more than one data.pkl")
    names = archive.members
    if any(name.endswith(".npy") for name in names):
        raise BringupError("checkpoint-other-archive", kind="a NumPy archive (.npz)")
    if any(name.endswith(("model.json", "archive_format")) for name in names):
        raise BringupError(
            "checkpoint-other-archive", kind="a torch.export archive or TorchScript before 1.4"
        )
    if any("/.data/" in name for name in names):
        raise BringupError("checkpoint-other-archive", kind="a torch.package archive")
    raise BringupError("checkpoint-other-archive", kind="a zip archive without data.pkl")


def _byte_order(archive: ZipArchive, folder: str) -> str:
    name = f"{folder}byteorder"
    if name not in archive.members:
        return "little"
    order = archive.read_small(name)
    if order not in (b"little", b"big"):
        raise ambiguous("its byte order is neither little nor big")
    return order.decode()


def _member_reader(archive: ZipArchive, name: str) -> ByteReader:
    data = archive.bytes_of(name)
    return ByteReader(data if isinstance(data, (FileSlice, Literal)) else Literal(archive.read_small(name)))


def _script_code(archive: ZipArchive, folder: str) -> dict[str, str]:
    code: dict[str, str] = {}
    left = limits.MAX_INFLATED_IN_MEMORY
    for name, member in archive.members.items():
        if re.match(re.escape(folder) + r"code/.*\.py$", name):
            left -= member.size
            if left < 0:
                raise limits.exceeded("inflated", limits.MAX_INFLATED_IN_MEMORY)
            code[name.removeprefix(f"{folder}code/")] = archive.read_small(name).decode("utf-8", "replace")
    return code


def _take_storage(reader: ByteReader, storage: Storage) -> None:
    (count,) = struct.unpack("<q", reader.read(8))
    if count != storage.count or storage.data is not None:
        raise refuse(
            f"storage {storage.key!r} has {count} elements in the stream and {storage.count} in the pickle"
        )
    storage.data = reader.take(storage.nbytes)


def _require_data(resolver: TorchResolver) -> None:
    for storage in resolver.storages.values():
        if storage.data is None:
            if storage.count:
                raise refuse(f"storage {storage.key!r} is not in the stream")
            storage.data = Literal(b"")


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise BringupError("checkpoint-malformed", at=0, reason="a count is expected")
    return value


def _triple(value: Any) -> tuple[Any, Any, Any]:
    if not isinstance(value, tuple) or len(value) != 3:
        raise BringupError("checkpoint-malformed", at=0, reason="three values are expected")
    return value


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BringupError("checkpoint-malformed", at=0, reason="a list is expected")
    return value
