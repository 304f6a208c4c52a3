"""PyTorch's own references and calls: storages and `_rebuild_*`, as descriptions.

Source of the argument lists: `torch/_utils.py`, `torch/_tensor.py` and `torch/serialization.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bringup.checkpoints import rebuilders
from bringup.checkpoints.known_globals import REBUILDS_SUBCLASSES
from bringup.checkpoints.records import Attribute, Global, Instance, PersistentId, dotted_name, text_of
from bringup.checkpoints.source import Bytes, FileSlice, Literal
from bringup.checkpoints.tensors import (
    DTYPE_ALIASES,
    ELEMENT_TYPES,
    STORAGE_TYPES,
    Storage,
    Tensor,
    check_sizes,
    refuse,
)

Nested = Callable[[FileSlice | Literal], Any]
Find = Callable[[str, int], tuple[Bytes | None, bool]]


def dtype_name(value: Any) -> str | None:
    """The element type that a global such as `torch.float32` names."""
    if not isinstance(value, Global) or value.module != "torch":
        return None
    name = DTYPE_ALIASES.get(value.name, value.name)
    return name if name in ELEMENT_TYPES else None


def _text(value: Any) -> str | None:
    if isinstance(value, bytes) and value.isascii():
        return value.decode("ascii")
    return value if isinstance(value, str) else None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


class TorchResolver:
    """Resolves one file's references.

    Args:
        find: gives a storage's bytes by key and wanted size, and whether they are big-endian. Legacy
            streams give `None`: their bytes come after the pickle.
        nested: reads a checkpoint inside this one.
    """

    def __init__(self, find: Find, nested: Nested) -> None:
        self.storages: dict[str, Storage] = {}
        self.by_reference: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self._find = find
        self._nested = nested
        self._calls: dict[str, Callable[[tuple[Any, ...]], Any]] = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch.nn.parameter.Parameter": _parameter,
            "torch._utils._rebuild_qtensor": _quantised,
            "torch._utils._rebuild_sparse_tensor": _sparse,
            "torch._utils._rebuild_nested_tensor": _nested_tensor,
            "torch._utils._rebuild_meta_tensor_no_storage": _meta,
            "torch._utils._rebuild_device_tensor_from_numpy": _from_array,
            "torch._utils._rebuild_xla_tensor": _from_array,
            "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_array,
            "torch._tensor._rebuild_from_type": self._from_type,
            "torch._tensor._rebuild_from_type_v2": self._from_type,
            "torch.tensor._rebuild_from_type": self._from_type,
            "torch.serialization._get_layout": _layout,
            "torch.storage._load_from_bytes": self._load_from_bytes,
            "torch.jit._pickle.restore_type_tag": _first,
            "torch.jit._pickle.build_intlist": _first,
            "torch.jit._pickle.build_doublelist": _first,
            "torch.jit._pickle.build_boollist": _first,
            "torch.jit._pickle.build_tensorlist": _first,
        }

    def persistent(self, reference: Any) -> Any:
        """A storage, a class with its source (legacy), or an inert reference."""
        if isinstance(reference, tuple) and reference:
            kind = _text(reference[0])
            if kind == "storage" and len(reference) in (5, 6):
                return self._storage(reference)
            if kind == "module" and len(reference) == 4:
                return self._class_with_source(reference[1:])
            if len(reference) == 3 and isinstance(reference[0], Global):
                return self._class_with_source(reference)
        if isinstance(reference, (str, int)) and str(reference) in self.by_reference:
            return self.by_reference[str(reference)]
        return PersistentId(reference)

    def _class_with_source(self, parts: tuple[Any, ...]) -> Any:
        found, _file, source = parts
        if isinstance(found, Global) and isinstance(source, str):
            self.sources[str(found)] = source
        return found

    def _storage(self, reference: tuple[Any, ...]) -> Storage:
        _, kind, key, location, count, *view = reference
        dtype = STORAGE_TYPES.get(kind.name) if isinstance(kind, Global) else None
        name, place = _text(key) if not isinstance(key, int) else str(key), _text(location)
        if dtype is None or name is None or not _is_count(count) or len(name) > 1000:
            raise refuse("a storage is not described by type, name and size")
        root = self.storages.get(name)
        if root is None or (root.dtype != dtype and view in ([], [None])):
            data, big_endian = self._find(name, count * ELEMENT_TYPES[dtype].size)
            shared = root
            root = Storage(name, dtype, count, place or "cpu", data, big_endian, root=shared)
            self.storages.setdefault(name, root)
        if view and view[0] is not None:
            return _storage_view(root, view[0])
        return root

    def call(self, maker: Any, arguments: tuple[Any, ...]) -> Any:
        """The value of a call that means data; otherwise an inert record of it."""
        name = str(maker) if isinstance(maker, Global) else ""
        known = self._calls.get(name) or rebuilders.REBUILDERS.get(name)
        value = known(arguments) if known else None
        if value is None and name.startswith("torch._utils._rebuild_"):
            raise refuse(f"{name} has arguments that PyTorch does not write")
        return Instance(maker, arguments, called=True) if value is None else value

    def build(self, target: Any, state: Any) -> bool:
        if isinstance(target, rebuilders.ArrayType):
            rebuilders.build_array_type(target, state)
        elif isinstance(target, rebuilders.Array):
            rebuilders.build_array(target, state)
        elif isinstance(target, Tensor):
            target.state = state
        else:
            return False
        return True

    def _tensor(self, arguments: tuple[Any, ...]) -> Any:
        if len(arguments) < 4 or not isinstance(arguments[0], Storage):
            return None
        storage, offset, shape, strides, *rest = arguments
        metadata = rest[2] if len(rest) > 2 else None
        return _view(storage, storage.dtype, offset, shape, strides, rest[0] if rest else False, metadata)

    def _tensor_v3(self, arguments: tuple[Any, ...]) -> Any:
        if len(arguments) < 7 or not isinstance(arguments[0], Storage):
            return None
        storage, offset, shape, strides, gradient, _hooks, kind, *rest = arguments
        dtype = dtype_name(kind)
        if dtype is None:
            return None
        return _view(storage, dtype, offset, shape, strides, gradient, rest[0] if rest else None)

    def _from_type(self, arguments: tuple[Any, ...]) -> Any:
        """A tensor subclass: `(function, class, arguments, state)`."""
        if len(arguments) != 4 or not isinstance(arguments[2], tuple) or not isinstance(arguments[0], Global):
            return None
        if str(arguments[0]) in REBUILDS_SUBCLASSES:
            return None
        made = self.call(arguments[0], arguments[2])
        if isinstance(made, Tensor) and isinstance(arguments[1], (Global, Attribute)):
            made.class_name = dotted_name(arguments[1])
            made.state = arguments[3]
            return made
        return None

    def _load_from_bytes(self, arguments: tuple[Any, ...]) -> Any:
        data = arguments[0] if arguments else None
        if isinstance(data, bytes):
            data = Literal(data)
        return self._nested(data) if isinstance(data, (FileSlice, Literal)) else None


def _storage_view(root: Storage, view: Any) -> Storage:
    """A stretch of `root`: `(key, offset, count)` in elements."""
    if not isinstance(view, tuple) or len(view) != 3 or not _is_count(view[1]) or not _is_count(view[2]):
        raise refuse("a storage view is not described by name, offset and size")
    key, offset, count = view
    if offset + count > root.count:
        raise refuse(f"a view reaches beyond storage {root.key!r}")
    start = root.start + offset * ELEMENT_TYPES[root.dtype].size
    return Storage(text_of(key), root.dtype, count, root.location, None, root.big_endian, start, root.base)


def _view(
    storage: Storage, dtype: str, offset: Any, shape: Any, strides: Any, gradient: Any, metadata: Any
) -> Tensor:
    sizes, steps = check_sizes(shape, "shape"), check_sizes(strides, "strides")
    if len(sizes) != len(steps) or not _is_count(offset):
        raise refuse("shape, strides and offset do not fit together")
    details = {
        name: True for name in ("conj", "neg") if isinstance(metadata, dict) and metadata.get(name) is True
    }
    return Tensor(dtype, sizes, storage, offset, steps, gradient is True, details=details)


def _first(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if arguments else None


def _layout(arguments: tuple[Any, ...]) -> Any:
    name = _text(arguments[0]) if arguments else None
    return Global("torch", name.removeprefix("torch.")) if name else None


def _parameter(arguments: tuple[Any, ...]) -> Any:
    if not arguments or not isinstance(arguments[0], Tensor):
        return None
    tensor = arguments[0]
    tensor.class_name = "torch.nn.Parameter" if tensor.class_name == "torch.Tensor" else tensor.class_name
    tensor.requires_grad = len(arguments) < 2 or arguments[1] is True
    if len(arguments) > 3:
        tensor.state = arguments[3]
    return tensor


def _quantised(arguments: tuple[Any, ...]) -> Any:
    if len(arguments) < 5 or not isinstance(arguments[0], Storage) or not isinstance(arguments[4], tuple):
        return None
    storage, offset, shape, strides, scheme, *rest = arguments
    kind = scheme[0].name if scheme and isinstance(scheme[0], Global) else ""
    sizes, steps = check_sizes(shape, "shape"), check_sizes(strides, "strides")
    if len(sizes) != len(steps) or not _is_count(offset):
        raise refuse("shape, strides and offset do not fit together")
    tensor = Tensor(storage.dtype, sizes, storage, offset, steps, bool(rest and rest[0] is True))
    if kind == "per_tensor_affine" and [type(part) for part in scheme[1:]] == [float, int]:
        if not math.isfinite(scheme[1]):
            raise refuse("the scale of a quantised tensor is not a finite number")
        tensor.details = {"scheme": kind, "scale": scheme[1], "zero_point": scheme[2]}
        return tensor
    if kind.startswith("per_channel_affine") and len(scheme) == 4 and _is_count(scheme[3]):
        _, scales, zero_points, axis = scheme
        if not isinstance(scales, Tensor) or not isinstance(zero_points, Tensor):
            return None
        if axis >= len(sizes) or scales.numel != sizes[axis] or zero_points.numel != sizes[axis]:
            raise refuse("scales and zero points do not fit the quantised dimension")
        tensor.details = {"scheme": kind, "axis": axis}
        tensor.parts = {"scales": scales, "zero_points": zero_points}
        return tensor
    return None


_COMPRESSED = {
    "sparse_csr": ("crow_indices", "col_indices"),
    "sparse_csc": ("ccol_indices", "row_indices"),
    "sparse_bsr": ("crow_indices", "col_indices"),
    "sparse_bsc": ("ccol_indices", "row_indices"),
}


def _sparse(arguments: tuple[Any, ...]) -> Any:
    if len(arguments) != 2 or not isinstance(arguments[0], Global) or not isinstance(arguments[1], tuple):
        return None
    layout, data = arguments[0].name, arguments[1]
    if layout == "sparse_coo" and len(data) in (3, 4):
        parts = dict(zip(("indices", "values"), data, strict=False))
        shape, details = data[2], {"is_coalesced": bool(len(data) == 4 and data[3] is True)}
    elif layout in _COMPRESSED and len(data) == 4:
        parts = dict(zip((*_COMPRESSED[layout], "values"), data, strict=False))
        shape, details = data[3], {}
    else:
        return None
    return _composed(layout, check_sizes(shape, "shape"), parts, details)


def _nested_tensor(arguments: tuple[Any, ...]) -> Any:
    names = ("buffer", "sizes", "strides", "offsets")
    if len(arguments) != 4:
        return None
    return _composed("nested", (), dict(zip(names, arguments, strict=True)), {})


def _composed(layout: str, shape: tuple[int, ...], parts: dict[str, Any], details: dict[str, Any]) -> Any:
    if not all(isinstance(part, Tensor) and part.layout == "strided" for part in parts.values()):
        return None
    values = parts.get("values") or parts["buffer"]
    return Tensor(values.dtype, shape, layout=layout, parts=parts, details=details)


def _meta(arguments: tuple[Any, ...]) -> Any:
    dtype = dtype_name(arguments[0]) if len(arguments) >= 3 else None
    if dtype is None:
        return None
    sizes, steps = check_sizes(arguments[1], "shape"), check_sizes(arguments[2], "strides")
    return Tensor(dtype, sizes, strides=steps, layout="meta")


def _from_array(arguments: tuple[Any, ...]) -> Any:
    value = rebuilders.finished(arguments[0]) if arguments else None
    return value if isinstance(value, Tensor) else None
