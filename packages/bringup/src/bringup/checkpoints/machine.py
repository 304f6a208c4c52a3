"""The pickle machine: a stack, a memo, and no way out. Its instructions stand in `opcodes`.

Where CPython's two implementations differ
(FRAME, `GET` of odd numbers), bytes are read in the order in which they stand in the file, as the C
implementation does. Calls are handed to a *resolver*, which knows the few that mean data.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

from bringup.checkpoints import limits
from bringup.checkpoints.opcodes import OPCODES
from bringup.checkpoints.records import Attribute, Global, Instance
from bringup.checkpoints.source import ByteReader
from bringup.checkpoints.verdicts import GlobalLog, judge_name, modern_name
from bringup.errors import BringupError

_INSTANCE = 384
"""Bytes of a record with its empty lists."""


class Resolver(Protocol):
    """Gives meaning to persistent references and to the calls that only rebuild data."""

    def persistent(self, reference: Any) -> Any: ...

    def call(self, maker: Any, arguments: tuple[Any, ...]) -> Any: ...

    def build(self, target: Any, state: Any) -> bool:
        """Apply BUILD to a record of the resolver's own; False when it is none of them."""
        ...


class Machine:
    """Interprets one pickle.

    Args:
        reader: stands at the pickle's first byte; afterwards behind its STOP.
        resolver: see `Resolver`.
        log: collects the globals.
        budget: shared by all pickles of a file.
    """

    def __init__(self, reader: ByteReader, resolver: Resolver, log: GlobalLog, budget: limits.Budget) -> None:
        self.reader: ByteReader = reader
        self.resolver: Resolver = resolver
        self.log = log
        self.budget = budget
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value of the pickle.

        Raises:
            BringupError: `checkpoint-malformed`, `checkpoint-truncated`, `checkpoint-limit`, or what the
                resolver refuses.
        """
        budget, read = self.budget, self.reader.read
        while True:
            code = read(1)[0]
            budget.step()
            if code == 0x2E:
                return self.pop()
            handler = OPCODES[code]
            if handler is None:
                raise self.fault(f"unknown instruction 0x{code:02x}")
            handler(self)

    def fault(self, reason: str) -> BringupError:
        return BringupError("checkpoint-malformed", at=self.reader.position, reason=reason)

    def push(self, value: Any, size: int = 64) -> None:
        self.budget.hold(size)
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise self.fault("the stack is empty")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise self.fault("the stack is empty")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self.fault("no mark is set")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.reader.read(struct.calcsize(form)))[0]
        return value

    def counted(self, form: str) -> int:
        """A length field, checked against what is left before anything is allocated."""
        count = self.number(form)
        if count < 0 or self.reader.position + count > self.reader.size:
            raise BringupError("checkpoint-truncated", at=self.reader.position)
        return count

    def text(self, form: str) -> str:
        count = self.counted(form)
        self.budget.hold(count)
        return self.decode(self.reader.read(count), "utf-8")

    def decode(self, data: bytes, encoding: str) -> str:
        try:
            return data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError as error:
            raise self.fault(f"a string is not {encoding}") from error

    def line(self) -> bytes:
        line = self.reader.read_line(limits.MAX_LINE)
        self.budget.hold(len(line))
        return line

    def find_global(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > 4096:
            raise self.fault("a global is not named by two short strings")
        found = modern_name(module, name)
        self.log.note(found, "named", judge_name(found))
        return found

    def call(self, maker: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple):
            raise self.fault("the arguments of a call are no tuple")
        self.log.note_call(maker, arguments, "called")
        if isinstance(maker, Global):
            if str(maker) == "builtins.getattr" and len(arguments) == 2 and isinstance(arguments[1], str):
                return Attribute(*arguments)
            if str(maker).startswith("copyreg.") and arguments:
                return self.instantiate(*_copyreg_arguments(str(maker), arguments))
        made = self._resolve(maker, arguments)
        self.budget.hold(_INSTANCE if isinstance(made, Instance) else 0)
        return made

    def _resolve(self, maker: Any, arguments: tuple[Any, ...]) -> Any:
        """The resolver's value. What a call copies counts, or one list could be copied without end."""
        made = self.resolver.call(maker, arguments)
        items = made.items if isinstance(made, Instance) else made
        if isinstance(items, (list, tuple, set, frozenset, dict)):
            self.budget.hold(16 * len(items))
        elif isinstance(items, (bytes, str)):
            self.budget.hold(len(items))
        self.budget.check_time()
        return made

    def instantiate(self, maker: Any, arguments: Any, keywords: Any = None) -> Any:
        if not isinstance(arguments, tuple) or not isinstance(keywords or {}, dict):
            raise self.fault("the arguments of a new object are no tuple")
        self.log.note_call(maker, arguments, "instantiated")
        if isinstance(maker, Global):
            made = self._resolve(maker, arguments)
            if not isinstance(made, Instance):
                return made
        self.budget.hold(_INSTANCE)
        return Instance(maker, arguments, keywords or {})

    def set_items(self, target: Any, flat: list[Any]) -> None:
        if len(flat) % 2:
            raise self.fault("a key has no value")
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if isinstance(target, Instance):
            target.pairs += pairs
        elif isinstance(target, dict):
            for count, (key, value) in enumerate(pairs):
                if count & 0xFF == 0xFF:
                    self.budget.check_time()
                target[self.key(key)] = value
        else:
            raise self.fault("items are set on something that is no mapping")

    def add(self, target: set[Any], items: list[Any]) -> set[Any]:
        """Add items to a set. Integers of equal hash make that quadratic, so the clock is watched."""
        for count, item in enumerate(items):
            if count & 0xFF == 0xFF:
                self.budget.check_time()
            target.add(self.key(item))
        return target

    def extend(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Instance):
            target.items += items
        elif isinstance(target, list):
            target += items
        else:
            raise self.fault("something is appended to what is no list")

    def key(self, value: Any) -> Any:
        """A value whose hash is cheap: no lists, no tuples nested without end."""
        if isinstance(value, (list, dict, set, bytearray)):
            raise self.fault("a key cannot be hashed")
        if isinstance(value, (tuple, frozenset)):
            pending, leaves = [value], 0
            while pending:
                for part in pending.pop():
                    leaves += 1
                    if leaves > limits.MAX_KEY_LEAVES:
                        raise limits.exceeded("key-leaves", limits.MAX_KEY_LEAVES)
                    if isinstance(part, (list, dict, set, bytearray)):
                        raise self.fault("a key cannot be hashed")
                    if isinstance(part, (tuple, frozenset)):
                        pending.append(part)
        return value


def _copyreg_arguments(function: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Class, positional and keyword arguments of `copyreg`'s three helpers."""
    if function == "copyreg.__newobj_ex__" and len(arguments) == 3:
        return arguments
    if function == "copyreg._reconstructor":
        return arguments[0], tuple(arguments[2:])
    return arguments[0], tuple(arguments[1:])
