"""What a pickle says, as inert data: no class is looked up, nothing is called.

Containers become Python's own; everything else becomes one of these records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_LONGEST_TEXT = 4096


@dataclass(frozen=True)
class Global:
    """A class or function by name, as GLOBAL and STACK_GLOBAL write it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False)
class Attribute:
    """`getattr(owner, name)`: a nested class, a bound method, a built-in function."""

    owner: Any
    name: str


@dataclass(frozen=True)
class Extension:
    """A number of the extension registry (EXT1, EXT2, EXT4); the registry itself is never asked."""

    code: int


@dataclass(eq=False, slots=True)
class Instance:
    """An object that the pickle would have built.

    Attributes:
        maker: the class or function: `Global`, `Attribute`, `Extension`, `Instance` or any other value.
        called: whether `maker` would have been called (REDUCE) rather than only instantiated (NEWOBJ).
        state: what BUILD would have given to `__setstate__` or `__dict__`.
        items: what APPEND and ADDITEMS added; `pairs`: what SETITEM added.
    """

    maker: Any
    arguments: tuple[Any, ...] = ()
    keywords: dict[Any, Any] = field(default_factory=dict)
    called: bool = False
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def class_name(self) -> str:
        """Dotted name of the maker."""
        return dotted_name(self.maker)


class PickledDict(dict[Any, Any]):
    """A dict subclass of the standard library (OrderedDict, defaultdict, Counter) with its attributes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.state: Any = None


@dataclass(frozen=True, eq=False)
class PersistentId:
    """A reference that only the writing program could resolve."""

    value: Any


def text_of(value: Any) -> str:
    """A key or name as text. `str` of a container or record could be endless: its type's name instead."""
    if isinstance(value, str):
        return value[:_LONGEST_TEXT]
    if value is None or isinstance(value, (bool, int, float, bytes, Global)):
        return str(value)[:_LONGEST_TEXT]
    return f"<{type(value).__name__}>"


def dotted_name(maker: Any) -> str:
    """A name for a person: `module.Class`, `module.Class.attribute`; bounded however deep `maker` is."""
    trail: list[str] = []
    while isinstance(maker, Attribute) and len(trail) < 8:
        trail.append(maker.name)
        maker = maker.owner
    if isinstance(maker, Instance):
        maker = maker.maker
    if isinstance(maker, Global):
        root = str(maker)
    elif isinstance(maker, Extension):
        root = f"extension[{maker.code}]"
    else:
        root = f"<{type(maker).__name__}>"
    return ".".join([root, *reversed(trail)])
