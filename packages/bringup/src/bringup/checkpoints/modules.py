"""Names for tensors: those that `module.state_dict()` would give, and clear ones for everything else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bringup.checkpoints import limits
from bringup.checkpoints.containers import Contents
from bringup.checkpoints.rebuilders import finished
from bringup.checkpoints.records import Global, Instance, PickledDict, text_of
from bringup.checkpoints.tensors import Tensor

# Where programs keep the weights; earlier wins. Lightning, timm, nnU-Net and most training scripts.
MODEL_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "network_weights",
    "module",
    "net",
    "network",
    "weights",
)
_TORCH_FIELDS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


@dataclass(frozen=True)
class NamedTensor:
    """A tensor with its name.

    Attributes:
        in_model: part of the model's state dict; the name is then the state dict's.
        path: keys and attribute names from the root of the checkpoint.
    """

    name: str
    tensor: Tensor
    path: tuple[str, ...]
    in_model: bool


@dataclass(frozen=True)
class Model:
    """Where the weights are: a module, a state dict, or a TorchScript module."""

    path: tuple[str, ...]
    value: Any


@dataclass(frozen=True)
class ScriptFields:
    """What a TorchScript class lists as its state."""

    parameters: frozenset[str]
    buffers: frozenset[str]


def attributes_of(instance: Instance) -> dict[str, Any]:
    """The object's `__dict__` (and slots), as BUILD would have set it; keys that are no text left out."""
    state = instance.state
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    merged: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, dict):
            merged.update({key: value for key, value in part.items() if isinstance(key, str)})
    return merged


def is_module(value: Any) -> bool:
    """Whether a record is a `torch.nn.Module`, whatever its class."""
    if not isinstance(value, Instance):
        return False
    fields = attributes_of(value)
    return isinstance(fields.get("_parameters"), dict) and isinstance(fields.get("_modules"), dict)


def is_script_module(value: Any) -> bool:
    """Whether a record is an object of a TorchScript archive."""
    return (
        isinstance(value, Instance)
        and isinstance(value.maker, Global)
        and value.maker.module.startswith("__torch__")
        and isinstance(value.state, dict)
    )


def is_state_dict(value: Any) -> bool:
    """A dict from text to values at least half of which are tensors."""
    if not isinstance(value, dict) or not value or not all(isinstance(key, str) for key in value):
        return False
    tensors = sum(isinstance(finished(part), Tensor) for part in value.values())
    return tensors > 0 and 2 * tensors >= len(value)


def find_model(root: Any) -> Model | None:
    """The one model of a checkpoint; `None` when there are several or none."""

    def fits(value: Any) -> bool:
        return is_module(value) or is_script_module(value) or is_state_dict(value)

    if not isinstance(root, dict):
        return Model((), root) if fits(root) else None
    candidates = {key: value for key, value in root.items() if isinstance(key, str) and fits(value)}
    for key in MODEL_KEYS:
        if key in candidates:
            return Model((key,), candidates[key])
    if is_state_dict(root):
        return Model((), root)
    if len(candidates) == 1:
        return Model(*next(((key,), value) for key, value in candidates.items()))
    return None


class Namer:
    """Walks a checkpoint and names its tensors."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.model = find_model(contents.root)
        self.script = script_fields(contents.script_code)
        self._seen: set[int] = set()
        self._names = {"__metadata__"}  # which safetensors keeps for itself
        self._budget = limits.Budget()

    def run(self) -> list[NamedTensor]:
        """All tensors: the model's in the order of its state dict, then the others.

        Raises:
            BringupError: `checkpoint-limit` when there are too many or they are nested too deeply.
        """
        found: list[NamedTensor] = []
        if self.model is not None:
            found += self._walk(self.model.value, "", self.model.path, True, 0)
        found += self._walk(self.contents.root, "", (), self.model is None, 0)
        found += self._walk(self.contents.constants, "constants", ("constants",), False, 0)
        return found

    def _walk(
        self, value: Any, name: str, path: tuple[str, ...], in_model: bool, depth: int
    ) -> Iterator[NamedTensor]:
        if depth > limits.MAX_DEPTH:
            raise limits.exceeded("depth", limits.MAX_DEPTH)
        if len(self._names) > limits.MAX_TENSORS:
            raise limits.exceeded("tensors", limits.MAX_TENSORS)
        self._budget.step()
        value = finished(value)
        if isinstance(value, Tensor):
            yield NamedTensor(self._unique(name or "tensor"), value, path, in_model)
            if value.state:
                yield from self._walk(
                    value.state, f"{name}.attributes", (*path, "attributes"), False, depth + 1
                )
            return
        if not isinstance(value, (dict, list, tuple, Instance)):
            return
        # A module that is used twice has its tensors twice in a state dict; other things are named once.
        repeats = in_model and (is_module(value) or is_script_module(value))
        if id(value) in self._seen and not repeats:
            return
        self._seen.add(id(value))
        for key, part, belongs in self._children(value):
            inner = f"{name}.{key}" if name else key
            if part is not value:
                yield from self._walk(part, inner, (*path, key), in_model and belongs, depth + 1)

    def _children(self, value: Any) -> Iterator[tuple[str, Any, bool]]:
        """Name, value and whether it belongs to the state dict, for each part of a container or object."""
        if isinstance(value, dict):
            yield from ((text_of(key), part, True) for key, part in value.items() if _is_plain_key(key))
            if isinstance(value, PickledDict) and value.state:
                yield "attributes", value.state, False
        elif isinstance(value, (list, tuple)):
            yield from ((str(index), part, True) for index, part in enumerate(value))
        elif is_module(value):
            yield from _module_children(value)
        elif is_script_module(value):
            yield from self._script_children(value)
        else:
            yield from _object_children(value)

    def _script_children(self, value: Instance) -> Iterator[tuple[str, Any, bool]]:
        fields = self.script.get(value.class_name)
        parts = [(text_of(key), part) for key, part in value.state.items()]
        own = fields.parameters | fields.buffers if fields else frozenset()
        yield from ((key, part, key in own or fields is None) for key, part in parts if _holds_tensor(part))
        yield from ((key, part, is_script_module(part)) for key, part in parts if not _holds_tensor(part))

    def _unique(self, name: str) -> str:
        # Half of a surrogate pair is text to Python, and to no JSON reader.
        name = name.encode("utf-8", "backslashreplace").decode("utf-8")
        self._budget.hold(64 + len(name))
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}#{number}"
        self._names.add(unique)
        return unique


def _is_plain_key(key: Any) -> bool:
    return isinstance(key, (str, int, float, bool, bytes, type(None)))


def _holds_tensor(value: Any) -> bool:
    return isinstance(finished(value), Tensor)


def _module_children(module: Instance) -> Iterator[tuple[str, Any, bool]]:
    """In `Module.state_dict`'s order: parameters, persistent buffers, sub-modules; then other attributes."""
    fields = attributes_of(module)
    hidden = fields.get("_non_persistent_buffers_set")
    hidden = hidden if isinstance(hidden, (set, frozenset)) else set()
    buffers = fields.get("_buffers")
    for key, part in fields["_parameters"].items():
        yield text_of(key), part, True
    for key, part in (buffers if isinstance(buffers, dict) else {}).items():
        yield text_of(key), part, key not in hidden
    for key, part in fields["_modules"].items():
        yield text_of(key), part, True
    for key, part in fields.items():
        if key not in _TORCH_FIELDS:
            yield key, part, False


def _object_children(value: Instance) -> Iterator[tuple[str, Any, bool]]:
    fields = attributes_of(value)
    yield from ((key, part, True) for key, part in fields.items())
    if not fields and value.state is not None:
        yield "state", value.state, True
    yield from ((f"arguments.{index}", part, True) for index, part in enumerate(value.arguments))
    yield from ((str(index), part, True) for index, part in enumerate(value.items))
    yield from ((text_of(key), part, True) for key, part in value.pairs if _is_plain_key(key))


_SCRIPT_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n((?:  __(?:parameters|buffers)__ = \[[^\]\n]*\]\n)*)", re.MULTILINE
)


def script_fields(code: dict[str, str]) -> dict[str, ScriptFields]:
    """Parameters and buffers of each TorchScript class by its dotted name; the code is only searched."""
    found: dict[str, ScriptFields] = {}
    for file, text in code.items():
        module = file.removesuffix(".py").replace("/", ".")
        for match in _SCRIPT_CLASS.finditer(text):
            names: dict[str, frozenset[str]] = {}
            for line in match[2].splitlines():
                names[line.strip().split(" ")[0]] = frozenset(re.findall(r'"([^"]*)"', line))
            fields = ScriptFields(
                names.get("__parameters__", frozenset()), names.get("__buffers__", frozenset())
            )
            found[f"{module}.{match[1]}"] = fields
    return found
