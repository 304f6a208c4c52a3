"""The 68 instructions of pickle, protocols 0 to 5: one table from byte to handler.

Source: CPython's `Lib/pickletools.py`.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bringup.checkpoints import limits
from bringup.checkpoints.records import Extension, Global, Instance, PersistentId, PickledDict
from bringup.checkpoints.source import FileSlice, Literal

if TYPE_CHECKING:
    from bringup.checkpoints.machine import Machine

# Looked up now, so that nothing is imported while a file is read.
for _encoding in ("raw_unicode_escape", "unicode_escape", "latin-1", "ascii", "utf-8", "cp437"):
    codecs.lookup(_encoding)

Handler = Callable[["Machine"], None]
OPCODES: list[Handler | None] = [None] * 256


def _opcode(code: bytes) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        OPCODES[code[0]] = handler
        return handler

    return register


# Stack, marks and memo.


@_opcode(b"(")
def _mark(m: Machine) -> None:
    m.budget.hold(64)
    m.marks.append(m.stack)
    m.stack = []


@_opcode(b"0")
def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_to_mark()


@_opcode(b"1")
def _pop_mark(m: Machine) -> None:
    m.pop_to_mark()


@_opcode(b"2")
def _dup(m: Machine) -> None:
    m.push(m.top())


def _put(m: Machine, index: int) -> None:
    # A dict of larger integers could be made quadratic; no pickler numbers so far.
    if not 0 <= index < 2**32:
        raise m.fault("a memo number is negative or over 32 bits")
    m.budget.hold(64)
    m.memo[index] = m.top()


def _get(m: Machine, index: int) -> None:
    if index not in m.memo:
        raise m.fault(f"nothing is stored under memo number {index}")
    m.push(m.memo[index], 8)


@_opcode(b"p")
def _text_put(m: Machine) -> None:
    _put(m, _integer(m, m.line()))


@_opcode(b"q")
def _binput(m: Machine) -> None:
    _put(m, m.number("<B"))


@_opcode(b"r")
def _long_binput(m: Machine) -> None:
    _put(m, m.number("<I"))


@_opcode(b"\x94")
def _memoize(m: Machine) -> None:
    _put(m, len(m.memo))


@_opcode(b"g")
def _text_get(m: Machine) -> None:
    _get(m, _integer(m, m.line()))


@_opcode(b"h")
def _binget(m: Machine) -> None:
    _get(m, m.number("<B"))


@_opcode(b"j")
def _long_binget(m: Machine) -> None:
    _get(m, m.number("<I"))


# Plain values.


def _integer(m: Machine, text: bytes) -> int:
    if len(text) > 2 * limits.MAX_INTEGER_BYTES:
        raise limits.exceeded("integer-bytes", limits.MAX_INTEGER_BYTES)
    try:
        return int(text)
    except ValueError as error:
        raise m.fault("a decimal number is expected") from error


@_opcode(b"I")
def _int(m: Machine) -> None:
    line = m.line()
    m.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else _integer(m, line))


@_opcode(b"L")
def _long(m: Machine) -> None:
    m.push(_integer(m, m.line().removesuffix(b"L")))


@_opcode(b"F")
def _float(m: Machine) -> None:
    try:
        m.push(float(m.line()))
    except ValueError as error:
        raise m.fault("a decimal number is expected") from error


def _long_bytes(m: Machine, count: int) -> None:
    if count > limits.MAX_INTEGER_BYTES:
        raise limits.exceeded("integer-bytes", limits.MAX_INTEGER_BYTES)
    m.push(int.from_bytes(m.reader.read(count), "little", signed=True))


def _bytes_value(m: Machine, count: int) -> None:
    if count < limits.LITERAL_STAYS_IN_FILE:
        m.push(m.reader.read(count), 64 + count)
    else:
        taken: FileSlice | Literal = m.reader.take(count)
        m.push(taken)


def _string_value(m: Machine, count: int) -> None:
    """A Python 2 `str`: text where it is ASCII, bytes otherwise (NumPy arrays of Python 2)."""
    if count >= limits.LITERAL_STAYS_IN_FILE:
        return _bytes_value(m, count)
    data = m.reader.read(count)
    return m.push(data.decode("ascii") if data.isascii() else data, 64 + count)


@_opcode(b"S")
def _text_string(m: Machine) -> None:
    line = m.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise m.fault("a string is not in quotes")
    body = line[1:-1]
    if b"\\" in body:
        try:
            body = body.decode("ascii").encode("latin-1").decode("unicode_escape").encode("latin-1")
        except UnicodeError as error:
            raise m.fault("a string has a broken escape") from error
    m.push(body.decode("ascii") if body.isascii() else body)


_opcode(b"N")(lambda m: m.push(None, 8))
_opcode(b"\x88")(lambda m: m.push(True, 8))
_opcode(b"\x89")(lambda m: m.push(False, 8))
_opcode(b"J")(lambda m: m.push(m.number("<i")))
_opcode(b"K")(lambda m: m.push(m.number("<B"), 8))
_opcode(b"M")(lambda m: m.push(m.number("<H")))
_opcode(b"\x8a")(lambda m: _long_bytes(m, m.counted("<B")))
_opcode(b"\x8b")(lambda m: _long_bytes(m, m.counted("<i")))
_opcode(b"G")(lambda m: m.push(struct.unpack(">d", m.reader.read(8))[0]))
_opcode(b"V")(lambda m: m.push(m.decode(m.line(), "raw_unicode_escape")))
_opcode(b"\x8c")(lambda m: m.push(m.text("<B")))
_opcode(b"X")(lambda m: m.push(m.text("<I")))
_opcode(b"\x8d")(lambda m: m.push(m.text("<Q")))
_opcode(b"C")(lambda m: _bytes_value(m, m.counted("<B")))
_opcode(b"B")(lambda m: _bytes_value(m, m.counted("<I")))
_opcode(b"\x8e")(lambda m: _bytes_value(m, m.counted("<Q")))
_opcode(b"\x96")(lambda m: _bytes_value(m, m.counted("<Q")))
_opcode(b"U")(lambda m: _string_value(m, m.counted("<B")))
_opcode(b"T")(lambda m: _string_value(m, m.counted("<i")))


# Containers.


_opcode(b")")(lambda m: m.push((), 8))
_opcode(b"]")(lambda m: m.push([]))
_opcode(b"}")(lambda m: m.push({}))
_opcode(b"\x8f")(lambda m: m.push(set(), 216))
_opcode(b"t")(lambda m: m.push(tuple(m.pop_to_mark())))
_opcode(b"l")(lambda m: m.push(m.pop_to_mark()))
_opcode(b"\x91")(lambda m: m.push(frozenset(m.add(set(), m.pop_to_mark())), 216))


@_opcode(b"d")
def _dict(m: Machine) -> None:
    flat = m.pop_to_mark()
    made: dict[Any, Any] = {}
    m.set_items(made, flat)
    m.push(made)


def _tuple_of(count: int) -> Handler:
    def handler(m: Machine) -> None:
        if len(m.stack) < count:
            raise m.fault("the stack is empty")
        m.stack[-count:] = [tuple(m.stack[-count:])]
        m.budget.hold(64)

    return handler


_opcode(b"\x85")(_tuple_of(1))
_opcode(b"\x86")(_tuple_of(2))
_opcode(b"\x87")(_tuple_of(3))


@_opcode(b"a")
def _append(m: Machine) -> None:
    item = m.pop()
    m.extend(m.top(), [item])


@_opcode(b"e")
def _appends(m: Machine) -> None:
    items = m.pop_to_mark()
    m.extend(m.top(), items)


@_opcode(b"s")
def _setitem(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.set_items(m.top(), [key, value])


@_opcode(b"u")
def _setitems(m: Machine) -> None:
    flat = m.pop_to_mark()
    m.set_items(m.top(), flat)


@_opcode(b"\x90")
def _additems(m: Machine) -> None:
    items = m.pop_to_mark()
    target = m.top()
    if isinstance(target, Instance):
        target.items += items
    elif isinstance(target, set):
        m.add(target, items)
    else:
        raise m.fault("something is added to what is no set")


# Classes, calls and references: all of them end in records.


@_opcode(b"c")
def _global(m: Machine) -> None:
    module, name = m.decode(m.line(), "utf-8"), m.decode(m.line(), "utf-8")
    m.push(m.find_global(module, name))


@_opcode(b"\x93")
def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.push(m.find_global(module, name))


@_opcode(b"i")
def _inst(m: Machine) -> None:
    module, name = m.decode(m.line(), "utf-8"), m.decode(m.line(), "utf-8")
    arguments = tuple(m.pop_to_mark())
    m.push(m.call(m.find_global(module, name), arguments))


@_opcode(b"o")
def _obj(m: Machine) -> None:
    arguments = m.pop_to_mark()
    if not arguments:
        raise m.fault("an object has no class")
    m.push(m.call(arguments[0], tuple(arguments[1:])))


@_opcode(b"R")
def _reduce(m: Machine) -> None:
    arguments, maker = m.pop(), m.pop()
    m.push(m.call(maker, arguments))


@_opcode(b"\x81")
def _newobj(m: Machine) -> None:
    arguments, maker = m.pop(), m.pop()
    m.push(m.instantiate(maker, arguments))


@_opcode(b"\x92")
def _newobj_ex(m: Machine) -> None:
    keywords, arguments, maker = m.pop(), m.pop(), m.pop()
    m.push(m.instantiate(maker, arguments, keywords))


@_opcode(b"b")
def _build(m: Machine) -> None:
    state, target = m.pop(), m.top()
    if m.resolver.build(target, state):
        return
    if isinstance(target, (Instance, PickledDict)):
        target.state = state
    else:
        raise m.fault("a state is given to something that has none")


def _extension(m: Machine, code: int) -> None:
    record = Extension(code)
    m.log.note(Global("copyreg", f"extension[{code}]"), "named", "extension")
    m.push(record)


_opcode(b"\x82")(lambda m: _extension(m, m.number("<B")))
_opcode(b"\x83")(lambda m: _extension(m, m.number("<H")))
_opcode(b"\x84")(lambda m: _extension(m, m.number("<i")))
_opcode(b"P")(lambda m: m.push(m.resolver.persistent(m.decode(m.line(), "ascii"))))
_opcode(b"Q")(lambda m: m.push(m.resolver.persistent(m.pop())))


# Framing and buffers.


@_opcode(b"\x80")
def _proto(m: Machine) -> None:
    version = m.number("<B")
    if version > 5:
        raise m.fault(f"pickle protocol {version} is not known")


@_opcode(b"\x95")
def _frame(m: Machine) -> None:
    m.counted("<Q")


@_opcode(b"\x97")
def _next_buffer(m: Machine) -> None:
    m.push(PersistentId("out-of-band buffer"))


@_opcode(b"\x98")
def _readonly_buffer(m: Machine) -> None:
    m.top()
