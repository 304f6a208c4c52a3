"""The values of a checkpoint as JSON: module tree, attributes, hyper-parameters; tensors by name.

JSON has no tuples, sets, bytes, complex or infinite numbers, other keys than text, nor objects that are
referred to twice; an object with one key that begins with `$` stands for each of these.
"""

from __future__ import annotations

import base64
import math
from typing import Any

from bringup.checkpoints import limits
from bringup.checkpoints.modules import NamedTensor, attributes_of, is_module
from bringup.checkpoints.rebuilders import ArrayType, finished
from bringup.checkpoints.records import (
    Attribute,
    Extension,
    Global,
    Instance,
    PersistentId,
    PickledDict,
    dotted_name,
    text_of,
)
from bringup.checkpoints.source import DeflatedSlice, FileSlice, Literal
from bringup.checkpoints.tensors import Storage, Tensor

_LONG_BYTES = 4096
_INTERNAL = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class Describer:
    """Describes values; each list, dict or object once, then by reference."""

    def __init__(self, named: list[NamedTensor]) -> None:
        self._names: dict[int, str] = {}
        for entry in named:
            self._names.setdefault(id(entry.tensor), entry.name)
        self._paths: dict[int, str] = {}
        self._budget = limits.Budget()

    def describe(self, value: Any, path: str = "", depth: int = 0) -> Any:
        """JSON for a value.

        Raises:
            BringupError: `checkpoint-limit` when it is nested too deeply.
        """
        if depth > limits.MAX_DEPTH:
            raise limits.exceeded("depth", limits.MAX_DEPTH)
        self._budget.step()
        value = finished(value)
        plain = _plain(value)
        if plain is not _NOT_PLAIN:
            # Written out wherever it is referred to: a text of a megabyte may be, a million times.
            self._budget.hold(_length(plain))
            return plain
        if isinstance(value, Tensor):
            name = self._names.get(id(value))
            return {"$tensor": self._counted(name)} if name else {"$tensor": None, "shape": list(value.shape)}
        if isinstance(value, (list, dict, tuple, set, frozenset, Instance)) and value:
            self._budget.hold(len(path))
            if id(value) in self._paths:
                return {"$same_as": self._paths[id(value)]}
            self._paths[id(value)] = path or "/"
        return self._compound(value, path, depth + 1)

    def _counted(self, text: str) -> str:
        """A name or key. It may stand in memory once and in the description a million times."""
        self._budget.hold(len(text))
        return text

    def _compound(self, value: Any, path: str, depth: int) -> Any:
        if isinstance(value, list):
            return self._list(value, path, depth)
        if isinstance(value, tuple):
            return {"$tuple": self._list(value, path, depth)}
        if isinstance(value, (set, frozenset)):
            return {"$set": sorted(self._list(value, path, depth), key=repr)}
        if isinstance(value, dict):
            return self._dict(value, path, depth)
        if isinstance(value, Attribute):
            owner = self.describe(value.owner, f"{path}/owner", depth)
            return {"$attribute": value.name[:1000], "of": owner}
        if isinstance(value, Instance):
            return self._module(value, path, depth) if is_module(value) else self._object(value, path, depth)
        return {"$unknown": type(value).__name__}

    def _list(self, values: Any, path: str, depth: int) -> list[Any]:
        return [self.describe(part, f"{path}/{index}", depth) for index, part in enumerate(values)]

    def _dict(self, value: dict[Any, Any], path: str, depth: int) -> Any:
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            text: Any = {
                self._counted(key): self.describe(part, f"{path}/{key[:100]}", depth)
                for key, part in value.items()
            }
        else:
            pairs = enumerate(value.items())
            text = {"$dict": [self._list(pair, f"{path}/{index}", depth) for index, pair in pairs]}
        if isinstance(value, PickledDict) and value.state:
            attributes = self.describe(value.state, f"{path}/$attributes", depth)
            return {"$mapping": value.kind, "items": text, "attributes": attributes}
        return text

    def _module(self, value: Instance, path: str, depth: int) -> dict[str, Any]:
        fields = attributes_of(value)
        text: dict[str, Any] = {"$module": self._counted(value.class_name)}
        text["attributes"] = {
            self._counted(key): self.describe(part, f"{path}/{key[:100]}", depth)
            for key, part in fields.items()
            if key not in _INTERNAL
        }
        hidden = fields.get("_non_persistent_buffers_set")
        if isinstance(hidden, (set, frozenset, list, tuple)) and hidden:
            text["non_persistent_buffers"] = sorted(self._counted(text_of(name)) for name in hidden)
        for key in ("_parameters", "_buffers", "_modules"):
            part = fields.get(key)
            if isinstance(part, dict) and part:
                text[key.lstrip("_")] = {
                    self._counted(text_of(name)): self.describe(inner, f"{path}/{text_of(name)[:100]}", depth)
                    for name, inner in part.items()
                }
        return text

    def _object(self, value: Instance, path: str, depth: int) -> dict[str, Any]:
        text: dict[str, Any] = {"$object": self._counted(value.class_name)}
        parts = {
            "arguments": list(value.arguments),
            "keywords": value.keywords,
            "state": value.state,
            "items": value.items,
            "pairs": [list(pair) for pair in value.pairs],
        }
        for key, part in parts.items():
            if part or (key == "state" and part is not None):
                text[key] = self.describe(part, f"{path}/{key}", depth)
        if isinstance(value.maker, (Attribute, Instance)):
            text["made_by"] = self.describe(value.maker, f"{path}/made_by", depth)
        return text


_NOT_PLAIN = object()


def _length(plain: Any) -> int:
    """About as many characters as the JSON of a plain value has."""
    if isinstance(plain, dict):
        plain = next(iter(plain.values()))
    return 8 + (len(plain) if isinstance(plain, str) else 0)


def _plain(value: Any) -> Any:
    """JSON for a value without parts, or `_NOT_PLAIN`."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, complex):
        return {"$complex": [str(value.real), str(value.imag)]}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, (FileSlice, Literal, DeflatedSlice)):
        if value.size <= _LONG_BYTES:
            return {"$bytes": base64.b64encode(value.read()).decode("ascii")}
        return {"$long_bytes": value.size}
    if isinstance(value, Global):
        return {"$global": str(value)}
    if isinstance(value, Extension):
        return {"$extension": value.code}
    if isinstance(value, PersistentId):
        return {
            "$persistent_id": dotted_name(value.value) if not isinstance(value.value, str) else value.value
        }
    if isinstance(value, ArrayType):
        return {"$array_type": value.order + value.code}
    if isinstance(value, Storage):
        return {"$storage": value.key, "dtype": value.dtype, "count": value.count}
    return _NOT_PLAIN
