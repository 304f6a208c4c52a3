"""The calls that mean data: containers of the standard library and NumPy arrays.

A function here takes the arguments of a REDUCE and gives a value, or `None` when the arguments are not
those that a pickler writes (the call then stays an inert record).
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bringup.checkpoints import limits
from bringup.checkpoints.records import Global, Instance, PickledDict
from bringup.checkpoints.source import DeflatedSlice, FileSlice, Literal
from bringup.checkpoints.tensors import (
    ELEMENT_TYPES,
    Tensor,
    check_sizes,
    plain_bytes_tensor,
    refuse,
    row_major,
)

Arguments = tuple[Any, ...]


@dataclass(eq=False)
class ArrayType:
    """A `numpy.dtype`: kind and size ("f4"), and byte order ("<", ">", "|", "=")."""

    code: str
    order: str = "="

    @property
    def dtype(self) -> str | None:
        """The torch name of the element type, if there is one."""
        return _ARRAY_DTYPES.get(self.code)


@dataclass(eq=False)
class Array:
    """A `numpy.ndarray` between `_reconstruct` and BUILD; afterwards `value` is a `Tensor` or a list."""

    value: Tensor | Instance | None = None
    class_name: str = "numpy.ndarray"
    arguments: Arguments = field(default_factory=tuple)


_NDARRAY = Global("numpy", "ndarray")
_ARRAY_DTYPES = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8", "u2": "uint16",
    "u4": "uint32", "u8": "uint64", "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64",
    "c16": "complex128",
}  # fmt: skip
_STRUCT_FORMS = {
    "bool": "?", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H",
    "uint32": "I", "uint64": "Q", "float16": "e", "float32": "f", "float64": "d",
}  # fmt: skip


def hashable_items(values: Any) -> list[Any] | None:
    """The items of a list that may go into a set without deep hashing.

    Raises:
        BringupError: `checkpoint-limit` for integers chosen to have one hash.
    """
    if not isinstance(values, (list, tuple, set, frozenset)):
        return None
    simple = (str, bytes, int, float, bool, type(None))
    if not all(isinstance(value, simple) for value in values):
        return None
    if len(values) > limits.MAX_EQUAL_HASHES:
        groups = itertools.groupby(sorted(map(hash, values)))
        if any(sum(1 for _ in group) > limits.MAX_EQUAL_HASHES for _, group in groups):
            raise limits.exceeded("equal-hashes", limits.MAX_EQUAL_HASHES)
    return list(values)


def _set(arguments: Arguments) -> Any:
    items = hashable_items(arguments[0]) if arguments else []
    return None if items is None else set(items)


def _frozenset(arguments: Arguments) -> Any:
    items = hashable_items(arguments[0]) if arguments else []
    return None if items is None else frozenset(items)


def _sequence(kind: type) -> Callable[[Arguments], Any]:
    def rebuild(arguments: Arguments) -> Any:
        if not arguments:
            return kind()
        fits = len(arguments) == 1 and isinstance(arguments[0], (list, tuple))
        return kind(arguments[0]) if fits else None

    return rebuild


def _mapping(kind: str) -> Callable[[Arguments], Any]:
    def rebuild(arguments: Arguments) -> Any:
        made = PickledDict(kind)
        if kind == "collections.defaultdict":
            made.state = {"default_factory": arguments[0]} if arguments else None
            arguments = arguments[1:]
        if not arguments:
            return made
        pairs = arguments[0]
        if isinstance(pairs, dict):
            made.update(pairs)
            return made
        if not isinstance(pairs, (list, tuple)):
            return None
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            return None
        if hashable_items([key for key, _ in pairs]) is None:
            return None
        made.update(pairs)
        return made

    return rebuild


def _deque(arguments: Arguments) -> Any:
    return Instance(Global("collections", "deque"), items=list(arguments[0]) if _is_listed(arguments) else [])


def _is_listed(arguments: Arguments) -> bool:
    return bool(arguments) and isinstance(arguments[0], (list, tuple))


def _dict(arguments: Arguments) -> Any:
    made = _mapping("builtins.dict")(arguments)
    return dict(made) if made is not None else None


def _complex(arguments: Arguments) -> Any:
    fits = len(arguments) == 2 and all(type(part) in (int, float) for part in arguments)
    try:
        return complex(*arguments) if fits else None
    except OverflowError:
        return None


def _scalar(kind: type) -> Callable[[Arguments], Any]:
    def rebuild(arguments: Arguments) -> Any:
        if not arguments:
            return kind()
        return arguments[0] if len(arguments) == 1 and type(arguments[0]) is kind else None

    return rebuild


def _encode(arguments: Arguments) -> Any:
    """`_codecs.encode(text, 'latin1')`: how protocols 0 to 2 write bytes."""
    latin = ("latin1", "latin-1", "iso-8859-1")
    if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] not in latin:
        return None
    try:
        return arguments[0].encode("latin-1")
    except UnicodeEncodeError:
        return None


def _bytes(arguments: Arguments) -> Any:
    if not arguments:
        return b""
    if isinstance(arguments[0], (bytes, FileSlice, Literal)):
        return arguments[0]
    if len(arguments) == 2 and isinstance(arguments[0], str):
        return _encode(arguments)
    values = arguments[0]
    if isinstance(values, (list, tuple)) and all(type(value) is int and 0 <= value < 256 for value in values):
        return bytes(values)
    return None


def _device(arguments: Arguments) -> Any:
    parts = [str(part) for part in arguments if isinstance(part, str) or type(part) is int]
    return Instance(Global("torch", "device"), (":".join(parts),))


def _array_type(arguments: Arguments) -> Any:
    code = arguments[0] if arguments else None
    if not isinstance(code, str) or not 0 < len(code) <= 64:
        return None
    order, rest = (code[0], code[1:]) if code[:1] in "<>|=" else ("=", code)
    return ArrayType(rest, order)


def _array(arguments: Arguments) -> Any:
    return Array(arguments=arguments)


def _array_scalar(arguments: Arguments) -> Any:
    """`scalar(dtype, bytes)`: a Python number."""
    if len(arguments) != 2 or not isinstance(arguments[0], ArrayType) or not isinstance(arguments[1], bytes):
        return None
    kind, data = arguments
    form = _STRUCT_FORMS.get(kind.dtype or "")
    if form is None or len(data) != struct.calcsize("=" + form):
        return None
    return struct.unpack((">" if kind.order == ">" else "<") + form, data)[0]


def _array_from_buffer(arguments: Arguments) -> Any:
    """`_frombuffer(buffer, dtype, shape, order)`: protocol 5."""
    if len(arguments) != 4 or not isinstance(arguments[1], ArrayType):
        return None
    data, kind, shape, order = arguments
    return Array(value=array_tensor(kind, shape, order == "F", data))


REBUILDERS: dict[str, Callable[[Arguments], Any]] = {
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "builtins.list": _sequence(list),
    "builtins.tuple": _sequence(tuple),
    "builtins.dict": _dict,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _complex,
    "builtins.int": _scalar(int),
    "builtins.float": _scalar(float),
    "builtins.str": _scalar(str),
    "builtins.bool": _scalar(bool),
    "collections.OrderedDict": _mapping("collections.OrderedDict"),
    "collections.defaultdict": _mapping("collections.defaultdict"),
    "collections.Counter": _mapping("collections.Counter"),
    "collections.deque": _deque,
    "_codecs.encode": _encode,
    "torch.Size": _sequence(tuple),
    "torch.device": _device,
    "numpy.dtype": _array_type,
    "numpy.ndarray": _array,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _array_scalar,
    "numpy._core.multiarray.scalar": _array_scalar,
    "numpy.core.numeric._frombuffer": _array_from_buffer,
    "numpy._core.numeric._frombuffer": _array_from_buffer,
}


def build_array_type(kind: ArrayType, state: Any) -> None:
    """BUILD of a dtype: `(version, byte order, …)`."""
    if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
        kind.order = state[1]


def build_array(array: Array, state: Any) -> None:
    """BUILD of an array: `(version, shape, dtype, is_fortran, raw data)`, or without the version.

    Raises:
        BringupError: `checkpoint-tensor` when the parts do not fit together.
    """
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise refuse("a NumPy array has an unknown state")
    shape, kind, fortran, data = state[-4:]
    if not isinstance(kind, ArrayType):
        raise refuse("a NumPy array has no type")
    array.value = array_tensor(kind, shape, fortran is True, data)


def array_tensor(kind: ArrayType, shape: Any, fortran: bool, data: Any) -> Tensor | Instance:
    """An array as a tensor; arrays of objects, texts and dates stay records.

    Raises:
        BringupError: `checkpoint-tensor` when size and shape disagree.
    """
    sizes = check_sizes(shape, "shape")
    if isinstance(data, (bytes, bytearray)):
        data = Literal(bytes(data))
    if isinstance(data, str) and data.isascii():
        data = Literal(data.encode("ascii"))
    if kind.dtype is None or not isinstance(data, (FileSlice, Literal, DeflatedSlice)):
        return Instance(_NDARRAY, (kind.code, sizes, data))
    item = ELEMENT_TYPES[kind.dtype].size
    if data.size != item * math.prod(sizes):
        raise refuse(f"an array of shape {list(sizes)} has {data.size} bytes")
    tensor = plain_bytes_tensor(data, kind.dtype, sizes, "array")
    if fortran:
        tensor.strides = tuple(reversed(row_major(tuple(reversed(sizes)))))
    if tensor.storage is not None:
        tensor.storage.big_endian = kind.order == ">"
    return tensor


def finished(value: Any) -> Any:
    """What an `Array` became."""
    if not isinstance(value, Array):
        return value
    return value.value if value.value is not None else Instance(_NDARRAY, value.arguments)
