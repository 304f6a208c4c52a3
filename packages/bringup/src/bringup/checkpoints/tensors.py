"""Storages and tensors as descriptions. Their bytes stay where they are.

Element types: https://docs.pytorch.org/docs/stable/tensor_attributes.html; safetensors' names for them:
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from bringup.checkpoints import limits
from bringup.checkpoints.source import Bytes, FileSlice
from bringup.errors import BringupError


@dataclass(frozen=True)
class ElementType:
    """One torch dtype.

    Attributes:
        size: bytes per element.
        stored: safetensors' type of the stored bytes.
        encoding: "" when `stored` says all; "complex" (real and imaginary part in a new last
            dimension of 2), "quantised" (integers; scale and zero point in the description), "bits"
            (the element's bytes as unsigned integers).
    """

    name: str
    size: int
    stored: str
    encoding: str = ""

    @property
    def swap_unit(self) -> int:
        """Bytes that are reversed together between byte orders."""
        return self.size // 2 if self.name.startswith("complex") else self.size


_PLAIN = {
    "float64": (8, "F64"), "float32": (4, "F32"), "float16": (2, "F16"), "bfloat16": (2, "BF16"),
    "int64": (8, "I64"), "int32": (4, "I32"), "int16": (2, "I16"), "int8": (1, "I8"),
    "uint64": (8, "U64"), "uint32": (4, "U32"), "uint16": (2, "U16"), "uint8": (1, "U8"), "bool": (1, "BOOL"),
    "float8_e4m3fn": (1, "F8_E4M3"), "float8_e5m2": (1, "F8_E5M2"), "complex64": (8, "C64"),
}  # fmt: skip
_ENCODED = {
    "complex32": (4, "F16", "complex"), "complex128": (16, "F64", "complex"),
    "qint8": (1, "I8", "quantised"), "quint8": (1, "U8", "quantised"), "qint32": (4, "I32", "quantised"),
    "quint4x2": (1, "U8", "quantised"), "quint2x4": (1, "U8", "quantised"), "bits16": (2, "U16", "bits"),
}  # fmt: skip
# Newer safetensors has names for some of these, older readers refuse a file that uses them.
_ONE_BYTE_BITS = (
    "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2", "bit",
    "bits8", "bits1x8", "bits2x4", "bits4x2",
    *(f"{sign}int{n}" for sign in ("", "u") for n in range(1, 8)),
)  # fmt: skip

ELEMENT_TYPES: dict[str, ElementType] = {
    **{name: ElementType(name, *row) for name, row in _PLAIN.items()},
    **{name: ElementType(name, *row) for name, row in _ENCODED.items()},
    **{name: ElementType(name, 1, "U8", "bits") for name in _ONE_BYTE_BITS},
}
DTYPE_ALIASES = {
    "float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32",
    "short": "int16", "cfloat": "complex64", "cdouble": "complex128", "chalf": "complex32",
}  # fmt: skip
STORAGE_TYPES: dict[str, str] = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64",
    "ComplexHalfStorage": "complex32", "QInt8Storage": "qint8", "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}  # fmt: skip
COMPONENTS_PER_BYTE = {"quint4x2": 2, "quint2x4": 4}


@dataclass(eq=False)
class Storage:
    """A stretch of memory that tensors look at.

    Attributes:
        key: its name in the file.
        count: elements of type `dtype`.
        data: where its bytes are; `None` until a legacy stream's end is read, and for `meta`.
        big_endian: whether multi-byte elements are to be swapped.
        start: bytes from the beginning of `data` (a view of another storage, old formats).
    """

    key: str
    dtype: str
    count: int
    location: str = "cpu"
    data: Bytes | None = None
    big_endian: bool = False
    start: int = 0
    root: Storage | None = None

    @property
    def base(self) -> Storage:
        """The storage whose bytes these are."""
        return self.root or self

    @property
    def nbytes(self) -> int:
        return self.count * ELEMENT_TYPES[self.dtype].size


@dataclass(eq=False)
class Tensor:
    """A strided view of a storage, or a composition of such views.

    Attributes:
        offset, strides: in elements.
        layout: "strided", "meta" (no data), "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr",
            "sparse_bsc" or "nested".
        parts: of the other layouts, and scales and zero points of per-channel quantisation, by name.
        details: plain values that belong to layout or quantiser.
        class_name: "torch.Tensor", "torch.nn.Parameter" or an unknown subclass.
    """

    dtype: str
    shape: tuple[int, ...]
    storage: Storage | None = None
    offset: int = 0
    strides: tuple[int, ...] = ()
    requires_grad: bool = False
    layout: str = "strided"
    parts: dict[str, Tensor] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    class_name: str = "torch.Tensor"
    state: Any = None

    @property
    def element(self) -> ElementType:
        return ELEMENT_TYPES[self.dtype]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def start(self) -> int:
        """First byte in the base storage."""
        inner = self.storage.start if self.storage else 0
        return inner + self.offset * self.element.size

    @property
    def start_in_file(self) -> int:
        """First byte in the checkpoint's file, or 0."""
        data = self.storage.base.data if self.storage else None
        return data.start + self.start if isinstance(data, FileSlice) else 0

    @property
    def span(self) -> int:
        """Bytes of the base storage from the first to the last element that the view touches."""
        if self.numel == 0:
            return 0
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        per_byte = COMPONENTS_PER_BYTE.get(self.dtype, 1)
        return -(-(last + 1) // per_byte) * self.element.size

    @property
    def is_contiguous(self) -> bool:
        """Whether elements lie one after another in row-major order."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return self.numel == 0
            expected *= size
        return True

    @property
    def view(self) -> tuple[object, ...]:
        """Equal for two tensors that are the same elements of the same memory."""
        significant = tuple(
            (size, stride if size > 1 else 0) for size, stride in zip(self.shape, self.strides, strict=True)
        )
        return (id(self.storage.base if self.storage else self), self.start, self.dtype, significant)


def refuse(reason: str) -> BringupError:
    """The refusal of a tensor whose description cannot be true."""
    return BringupError("checkpoint-tensor", reason=reason)


def check_sizes(values: Any, what: str) -> tuple[int, ...]:
    """Dimensions or strides as a tuple of non-negative integers below 2⁶³.

    Raises:
        BringupError: `checkpoint-tensor`.
    """
    if not isinstance(values, (list, tuple)) or len(values) > limits.MAX_DIMENSIONS:
        raise refuse(f"its {what} is no list of at most {limits.MAX_DIMENSIONS} numbers")
    for value in values:
        if type(value) is not int or not 0 <= value < 2**63:
            raise refuse(f"its {what} holds something other than sizes")
    return tuple(values)


def check_within_storage(tensor: Tensor) -> None:
    """Refuse a view that reaches beyond its storage, or a storage beyond its bytes.

    Raises:
        BringupError: `checkpoint-tensor`.
    """
    storage = tensor.storage
    if storage is None:
        return
    data = storage.base.data
    available = data.size - storage.start if data else 0
    needed = storage.nbytes
    if needed > available:
        raise refuse(f"storage {storage.key!r} should have {needed} bytes and has {max(available, 0)}")
    if tensor.numel and tensor.offset * tensor.element.size + tensor.span > needed:
        raise refuse(f"a view of shape {list(tensor.shape)} reaches beyond storage {storage.key!r}")
    if tensor.element.size > 1 and storage.start % tensor.element.size and storage.base.big_endian:
        raise refuse(f"a view of storage {storage.key!r} begins inside an element")


def plain_bytes_tensor(data: Bytes, dtype: str, shape: tuple[int, ...], key: str) -> Tensor:
    """A row-major tensor over bytes of its own (NumPy arrays and scalars)."""
    size = ELEMENT_TYPES[dtype].size
    storage = Storage(key, dtype, data.size // size, data=data)
    return Tensor(dtype, shape, storage, strides=row_major(shape), class_name="numpy.ndarray")


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor, in elements."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
