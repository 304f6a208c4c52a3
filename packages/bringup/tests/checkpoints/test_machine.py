"""The pickle machine against CPython's own, on plain values and on every instruction."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bringup.checkpoints import limits, open_checkpoint
from bringup.checkpoints.containers import ContainerReader
from bringup.checkpoints.machine import Machine
from bringup.checkpoints.opcodes import OPCODES
from bringup.checkpoints.records import Global, Instance, PersistentId
from bringup.checkpoints.source import ByteReader, Literal
from bringup.checkpoints.torch_calls import TorchResolver
from bringup.checkpoints.verdicts import GlobalLog


def interpret(data: bytes) -> Any:
    """The value of one pickle."""
    reader = ContainerReader()
    resolver = TorchResolver(lambda key, size: (None, False), lambda data: reader.read(data).root)
    return Machine(ByteReader(Literal(data)), resolver, GlobalLog(), limits.Budget()).run()


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
    | st.binary(max_size=300)
    | st.complex_numbers(allow_nan=False)
)
keys = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys | st.tuples(keys, keys), inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(keys, max_size=4)
        | st.frozensets(keys, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(value=values, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert repr_of(interpret(data)) == repr_of(value)


def repr_of(value: Any) -> Any:
    """Values with their types, sets in order."""
    if isinstance(value, (set, frozenset)):
        return type(value), sorted((repr_of(part) for part in value), key=repr)
    if isinstance(value, dict):
        return dict, [(repr_of(key), repr_of(part)) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [repr_of(part) for part in value]
    return type(value), repr(value)


def test_every_instruction_has_a_handler() -> None:
    known = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
    handled = {code for code, handler in enumerate(OPCODES) if handler} | {ord(".")}
    assert handled == set(known)


def test_python_2_strings() -> None:
    assert interpret(b"U\x03abc.") == "abc" and interpret(b"U\x02\xff\xfe.") == b"\xff\xfe"
    assert interpret(b"S'a\\x41\\n'\n.") == "aA\n"


@pytest.mark.parametrize(
    "data, value", [(b"I00\n.", False), (b"I01\n.", True), (b"I7\n.", 7), (b"L9L\n.", 9)]
)
def test_old_integers(data: bytes, value: Any) -> None:
    found = interpret(data)
    assert found == value and type(found) is type(value)


def test_unknown_things_become_records() -> None:
    made = interpret(b"\x80\x02ca.b\nC\nK\x01\x85\x81}\x8c\x01xK\x02sb.")
    assert isinstance(made, Instance) and made.maker == Global("a.b", "C")
    assert made.arguments == (1,) and made.state == {"x": 2}
    assert isinstance(interpret(b"Psomething\n."), PersistentId)


def test_large_byte_strings_stay_in_the_file() -> None:
    found = interpret(pickle.dumps(b"x" * 100_000, 4))
    assert found.size == 100_000 and found.read() == b"x" * 100_000


def test_an_array_type_without_a_name_is_a_record() -> None:
    """`numpy.dtype('')`, which a fuzzer found."""
    found = interpret(b"\x80\x02cnumpy\ndtype\nX\x00\x00\x00\x00\x85R.")
    assert isinstance(found, Instance) and found.maker == Global("numpy", "dtype")


def test_a_module_whose_hidden_buffers_are_no_set(tmp_path: Path) -> None:
    state = b"}(X\x08\x00\x00\x00_modules}X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}"
    state += b"X\x1b\x00\x00\x00_non_persistent_buffers_setca.b\nC\n)\x81u"
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81" + state + b"b.")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tree["$module"] and "non_persistent_buffers" not in checkpoint.tree
