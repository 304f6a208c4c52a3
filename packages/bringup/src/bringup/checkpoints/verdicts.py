"""What a checkpoint's globals mean for somebody who would open it with `torch.load`.

Three verdicts, worst wins:

- `tensors-and-containers`: only what PyTorch and NumPy write for tensors, containers and plain values;
- `unknown-classes`: classes (or functions by name) of some library; opening runs that library's code;
- `unneeded-calls`: something that no checkpoint needs: a call of a function that rebuilds no tensor,
  anything of the standard library that reaches the system, the extension registry.

An allow-list decides; the deny-list only makes a mere mention of such a name count as a call.
"""

from __future__ import annotations

import functools
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass, field
from typing import Any

from bringup.checkpoints.known_globals import (
    CALLS_OF_OBJECTS,
    CLASSES_THAT_REACH_OUT,
    HARMLESS,
    HARMLESS_TYPE_CALLS,
    LOADS_BYTES,
    MAKES_GENERATORS,
    MENTION_IS_ENOUGH,
    OBJECTS,
    REBUILDS_SUBCLASSES,
    TYPE_MODULES,
    TYPE_NAMES_REFUSED,
)
from bringup.checkpoints.records import Attribute, Extension, Global, Instance, dotted_name, text_of
from bringup.checkpoints.source import FileSlice, Literal

KNOWN = "tensors-and-containers"
UNKNOWN = "unknown-classes"
UNNEEDED = "unneeded-calls"
VERDICTS = (KNOWN, UNKNOWN, UNNEEDED)


@dataclass
class GlobalUse:
    """One global of a checkpoint.

    Attributes:
        uses: how it occurs: "named", "instantiated", "called", "attribute".
        reason: id of why the verdict is what it is: "known", "class", "function", "call",
            "standard-library", "reaches-out", "hidden-attribute", "extension".
    """

    module: str
    name: str
    uses: set[str] = field(default_factory=set)
    count: int = 0
    reason: str = "known"

    @property
    def verdict(self) -> str:
        return verdict_of(self.reason)


def verdict_of(reason: str) -> str:
    """The verdict that a reason gives; see `GlobalUse.reason`."""
    return {"known": KNOWN, "class": UNKNOWN, "function": UNKNOWN}.get(reason, UNNEEDED)


def modern_name(module: str, name: str) -> Global:
    """The Python 3 name of a global that Python 2 or a fixing pickler wrote."""
    module, name = NAME_MAPPING.get((module, name), (module, name))
    return Global(IMPORT_MAPPING.get(module, module), name)


# Cython's name for the function that makes an object of one of its classes.
_CYTHON = "pyx_unpickle_"


def _looks_like_class(name: str) -> bool:
    last = name.rsplit(".", 1)[-1].lstrip("_").removeprefix(_CYTHON)
    return last[:1].isupper()


def _names_hidden_attribute(name: str) -> bool:
    return any(part.startswith("__") and part.endswith("__") for part in name.split("."))


def _is_below(dotted: str, prefix: str) -> bool:
    return dotted == prefix or dotted.startswith(prefix + ".")


@functools.lru_cache(4096)
def judge_name(named: Global) -> str:
    """Reason for a global that is only named; see `GlobalUse.reason`."""
    dotted = str(named)
    if dotted in HARMLESS or dotted in ("builtins.getattr", "operator.getitem", "_operator.getitem"):
        return "known"
    if dotted in OBJECTS:
        return "class"
    if _names_hidden_attribute(named.name) or not named.module or not named.name:
        return "hidden-attribute"
    if named.module in TYPE_MODULES and dotted not in TYPE_NAMES_REFUSED:
        return "class"
    if _is_exception(named):
        return "class"
    if any(_is_below(dotted, prefix) for prefix in MENTION_IS_ENOUGH) or _is_found_elsewhere(named.name):
        return "reaches-out"
    root = named.module.split(".")[0]
    if root in sys.stdlib_module_names and root != "__main__":
        return "standard-library"
    return "class" if _looks_like_class(named.name) else "function"


def _is_found_elsewhere(name: str) -> bool:
    """A class of the system under a module that imports it, or a way through one: `subprocess.Popen`."""
    *owners, last = name.split(".")
    return last in CLASSES_THAT_REACH_OUT or not all(_looks_like_class(owner) for owner in owners)


def _is_exception(named: Global) -> bool:
    return named.module == "builtins" and named.name.endswith(("Error", "Exception", "Warning"))


def judge_call(maker: Any, arguments: tuple[Any, ...]) -> str:
    """Reason for a REDUCE, INST or OBJ: would have called `maker` with `arguments`."""
    if isinstance(maker, Extension):
        return "extension"
    if isinstance(maker, Attribute):
        return "class" if _looks_like_class(maker.name) and _owner_is_class(maker) else "call"
    if not isinstance(maker, Global):
        return "call"
    dotted = str(maker)
    if dotted == "builtins.getattr":
        return judge_attribute(arguments)
    if dotted in ("operator.getitem", "_operator.getitem"):
        return "class" if arguments and _is_type_like(arguments[0]) else "call"
    if not _hides_no_call(dotted, arguments):
        return "call"
    reason = judge_name(maker)
    if reason == "known":
        return reason if dotted != "builtins.type" or len(arguments) == 1 else "call"
    if dotted in OBJECTS:
        return "class" if dotted in CALLS_OF_OBJECTS else "call"
    if reason == "class":
        free = maker.module not in TYPE_MODULES or dotted in HARMLESS_TYPE_CALLS
        return "class" if free and _looks_like_class(maker.name) else "call"
    return "call" if reason == "function" else reason


def _hides_no_call(dotted: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a function that would call or read its arguments has some that are understood here."""
    if dotted == LOADS_BYTES:
        return len(arguments) == 1 and isinstance(arguments[0], (bytes, FileSlice, Literal))
    if dotted in REBUILDS_SUBCLASSES:
        if len(arguments) != 4 or not isinstance(arguments[2], tuple):
            return False
        # One inside another could be nested without end; PyTorch writes none.
        nested = text_of(arguments[0]) in REBUILDS_SUBCLASSES
        return not nested and judge_call(arguments[0], arguments[2]) in ("known", "class")
    if dotted in MAKES_GENERATORS:
        return all(
            isinstance(part, (str, int, type(None))) or dotted_name(part).startswith("numpy.random.")
            for part in arguments
        )
    return True


def judge_attribute(arguments: tuple[Any, ...]) -> str:
    """Reason for `getattr(owner, name)`: methods and nested classes yes, a way to the interpreter no."""
    if len(arguments) != 2 or not isinstance(arguments[1], str):
        return "call"
    owner, name = arguments
    if _names_hidden_attribute(name):
        return "hidden-attribute"
    if isinstance(owner, Global):
        return judge_name(Global(str(owner), name)) if judge_name(owner) != "known" else "class"
    if isinstance(owner, Attribute):
        return judge_name(Global(dotted_name(owner), name))
    return "class" if isinstance(owner, Instance) else "call"


def _owner_is_class(attribute: Attribute) -> bool:
    owner = attribute.owner
    return isinstance(owner, Global) and _looks_like_class(owner.name)


def _is_type_like(value: Any) -> bool:
    if isinstance(value, Global):
        return value.module in TYPE_MODULES or _looks_like_class(value.name) or str(value) in HARMLESS
    return isinstance(value, Instance) and dotted_name(value.maker).startswith(
        ("typing.", "operator.getitem")
    )


class GlobalLog:
    """Collects the globals of one file while its pickles are read."""

    def __init__(self) -> None:
        self.uses: dict[Global, GlobalUse] = {}

    def note(self, named: Global, use: str, reason: str) -> None:
        """Count one use; the worst reason stays."""
        entry = self.uses.setdefault(named, GlobalUse(named.module, named.name))
        entry.uses.add(use)
        entry.count += use == "named"
        worse = VERDICTS.index(verdict_of(reason)) > VERDICTS.index(entry.verdict)
        if worse or entry.reason == "known":
            entry.reason = reason

    def note_call(self, maker: Any, arguments: tuple[Any, ...], use: str) -> None:
        """Count a call or instantiation under the name that it goes by."""
        reason = judge_call(maker, arguments) if use == "called" else self._judge_new(maker)
        if isinstance(maker, Global) and str(maker) == "builtins.getattr" and len(arguments) == 2:
            self.note(Global(dotted_name(arguments[0]), text_of(arguments[1])[:200]), "attribute", reason)
            reason = reason if reason != "class" else "known"
        self.note(maker if isinstance(maker, Global) else Global("", dotted_name(maker)), use, reason)

    def _judge_new(self, maker: Any) -> str:
        if isinstance(maker, Global):
            reason = judge_name(maker)
            return "call" if reason == "function" else reason
        return judge_call(maker, ())

    @property
    def sorted(self) -> tuple[GlobalUse, ...]:
        """Worst first, then by name."""
        order = {verdict: -index for index, verdict in enumerate(VERDICTS)}
        return tuple(sorted(self.uses.values(), key=lambda use: (order[use.verdict], use.module, use.name)))

    @property
    def verdict(self) -> str:
        """The worst verdict of all."""
        return max((use.verdict for use in self.uses.values()), key=VERDICTS.index, default=KNOWN)
