"""Which calls are found, what is added where, and that nothing else changes: a table of cases."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bringup.steps.rewrite import rewrite

IMPORT = "import torch\n"


def after(folder: Path, text: str, name: str = "code.py") -> str:
    path = folder / name
    path.write_bytes(text.encode())
    rewrite(folder)
    return path.read_bytes().decode()


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("torch.load(p)", "torch.load(p, weights_only=True)"),
        ("torch.load(f=p)", "torch.load(f=p, weights_only=True)"),
        ("torch.load()", "torch.load(weights_only=True)"),
        ("torch.load(p, 'cpu')", "torch.load(p, 'cpu', weights_only=True)"),
        ("torch.load(p, map_location=d)", "torch.load(p, map_location=d, weights_only=True)"),
        ("torch.load(p, map_location=d, )", "torch.load(p, map_location=d, weights_only=True, )"),
        ("torch.load( p )", "torch.load( p, weights_only=True )"),
        ("torch.load(p)['model']", "torch.load(p, weights_only=True)['model']"),
        ("torch . load (p)", "torch . load (p, weights_only=True)"),
        ("torch.load(p, encoding='latin1')", "torch.load(p, encoding='latin1', weights_only=True)"),
        ("torch.load(q := p)", "torch.load(q := p, weights_only=True)"),
        (
            "torch.load(os.path.join(a, f(b)), map_location=lambda s, l: s)",
            "torch.load(os.path.join(a, f(b)), map_location=lambda s, l: s, weights_only=True)",
        ),
        (
            "m.load_state_dict(torch.load(torch.load(p)))",
            "m.load_state_dict(torch.load(torch.load(p, weights_only=True), weights_only=True))",
        ),
        ("print(f'{torch.load(p)!r:>10}')", "print(f'{torch.load(p, weights_only=True)!r:>10}')"),
        ("x = [torch.load(p) for p in ps]", "x = [torch.load(p, weights_only=True) for p in ps]"),
        ("def f(a=torch.load(p)): pass", "def f(a=torch.load(p, weights_only=True)): pass"),
        ("torch.serialization.load(p)", "torch.serialization.load(p, weights_only=True)"),
        ("torch.load(p)  # torch.load(p)", "torch.load(p, weights_only=True)  # torch.load(p)"),
        ("torch.load(\n    p\n)", "torch.load(\n    p, weights_only=True\n)"),
        (
            "torch.load(\n    p,  # the file\n    map_location='cpu',  # no GPU\n)",
            "torch.load(\n    p,  # the file\n    map_location='cpu',  # no GPU\n    weights_only=True,\n)",
        ),
        ("torch.load(p,\n           'cpu',)", "torch.load(p,\n           'cpu', weights_only=True,)"),
        # Said already, in whatever way.
        ("torch.load(p, weights_only=True)", None),
        ("torch.load(p, weights_only=False)", None),
        ("torch.load(p, weights_only = flag)", None),
        ("torch.load(p, weights_only=None)", None),
        # No pickle module is what torch takes anyway.
        ("torch.load(p, 'cpu', None)", "torch.load(p, 'cpu', None, weights_only=True)"),
        ("torch.load(p, pickle_module=None)", "torch.load(p, pickle_module=None, weights_only=True)"),
        # Left for a person.
        ("torch.load(p, **options)", None),
        ("torch.load(*args)", None),
        ("torch.load(p, pickle_module=dill)", None),
        ("torch.load(p, None, dill)", None),
        ("torch.load(p, fix_imports=False)", None),
        ("load = functools.partial(torch.load, map_location='cpu')", None),
        # Not torch.load.
        ("torch.jit.load(p)", None),
        ("torch.hub.load(a, b)", None),
        ("torch.loads(p)", None),
        ("self.torch.load(p)", None),
        ("x = 'torch.load(p)'", None),
        ("json.load(p)", None),
        ("def f(torch): return torch.load(p)", None),
        ("class torch2: load = 1", None),
    ],
)
def test_call(before: str, expected: str | None, tmp_path: Path) -> None:
    assert after(tmp_path, IMPORT + before + "\n") == IMPORT + (expected or before) + "\n"


@pytest.mark.parametrize(
    ("imports", "call", "found"),
    [
        ("from torch import load", "load(p)", True),
        ("from torch import nn, load as tl", "tl(p)", True),
        ("import torch as t", "t.load(p)", True),
        ("import torch.serialization as ser", "ser.load(p)", True),
        ("import torch.nn as nn", "torch.load(p)", True),
        ("from torch.serialization import load as l", "l(p)", True),
        ("from torch import serialization", "serialization.load(p)", True),
        ("from torch import *", "torch.load(p)", True),
        ("from common import *", "torch.load(p)", True),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", "torch.load(p)", True),
        ("def f():\n    import torch as t", "t.load(p)", False),
        ("from joblib import load", "load(p)", False),
        ("from .torch import load", "load(p)", False),
        ("from mine.torch import load", "load(p)", False),
        ("import pickle as torch", "torch.load(p)", False),
        (
            "try:\n    from torch import load\nexcept ImportError:\n    from pickle import load",
            "load(p)",
            False,
        ),
        ("import torch\ntorch = object()", "torch.load(p)", True),
    ],
)
def test_what_a_name_means(imports: str, call: str, found: bool, tmp_path: Path) -> None:
    added = call.replace("(p)", "(p, weights_only=True)") if found else call
    assert after(tmp_path, f"{imports}\nx = {call}\n") == f"{imports}\nx = {added}\n"


REASONS = {
    "torch.load(p, **options)": "starred-keywords",
    "torch.load(p, pickle_module=dill)": "pickle-module",
    "torch.load(*args)": "pickle-module",
    "torch.load(p, errors='x')": "unpickler-keyword",
    "g(torch.load)": "reference",
    "def f(torch): return torch.load(p)": "other-binding",
    "torch.load(x for x in y)": "generator",
    "from torch import *; load(p)": "other-binding",
}


@pytest.mark.parametrize(("code", "reason"), REASONS.items())
def test_what_is_left_is_listed_with_the_reason(code: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(IMPORT + code + "\n")
    calls = rewrite(tmp_path).files[0].calls
    assert [(call.action, call.reason, call.line) for call in calls] == [("left", reason, 2)]


@pytest.mark.parametrize(
    "code",
    [
        "m = torch.load(p)['model']\nm.to(d)\nm.eval()",
        "m = torch.load(p)\nm.eval()",
        "torch.load(p).eval()",
        "c = torch.load(p)\nm = c['model']\nm.cuda().train(False)",
    ],
)
def test_whole_models_are_recognised_by_their_use(code: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(IMPORT + code + "\n")
    call = rewrite(tmp_path).files[0].calls[0]
    assert (call.action, call.reason) == ("added-true", "whole-module")
    assert call.command and "bringup convert" in call.command


@pytest.mark.parametrize(
    "code",
    [
        "m = Net()\nm.load_state_dict(torch.load(p))\nm.eval()",
        "s = torch.load(p)\nm.load_state_dict(s['model'])\nm.eval()",
        "m = torch.load(p)\nm = Net(m)\nm.eval()",
        "def f():\n    m = torch.load(p)\ndef g(m):\n    m.eval()",
    ],
)
def test_state_dicts_are_not_taken_for_models(code: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(IMPORT + code + "\n")
    assert rewrite(tmp_path).files[0].calls[0].reason is None


def test_twice_is_once(tmp_path: Path) -> None:
    once = after(tmp_path, IMPORT + "torch.load(\n  torch.load(p),\n)\ng(torch.load)\n")
    assert not any(file.edits for file in rewrite(tmp_path).files)
    assert (tmp_path / "code.py").read_text() == once


ARGUMENT = st.sampled_from(
    [
        "p",
        "'a.pt'",
        "map_location='cpu'",
        "f(x, [1, 2])",
        "(yield_)",
        "mmap=True",
        "b if c else d",
        "x[1:2]",
        "{**k}",
    ]
)
SPACE = st.sampled_from(["", " ", "\n    ", "  # torch.load(\n  ", "\\\n"])


@st.composite
def calls(draw: st.DrawFn) -> str:
    chosen = draw(st.lists(ARGUMENT, unique=True, max_size=2))
    chosen.sort(key=lambda text: text.startswith(("map_location", "mmap")))
    parts = [draw(SPACE) + text + draw(SPACE) for text in chosen]
    tail = draw(st.sampled_from(["", ","])) + draw(SPACE) if parts else draw(SPACE)
    return "torch.load(" + ",".join(parts) + tail + ")"


@given(
    st.lists(calls(), min_size=1, max_size=4),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "# é 模型 \U0001f600\n", "\ufeff"]),
)
@settings(max_examples=150, deadline=None)
def test_only_the_argument_is_added(
    tmp_path_factory: pytest.TempPathFactory, listed: list[str], ending: str, head: str
) -> None:
    text = head + IMPORT + "".join(f"v{i} = {call}\n" for i, call in enumerate(listed))
    data = text.replace("\n", ending).encode()
    folder = tmp_path_factory.mktemp("property")
    (folder / "a.py").write_bytes(data)
    try:
        before = ast.dump(ast.parse(data))
    except SyntaxError:
        return  # A comment swallowed the rest of a one-line call.
    result = rewrite(folder)
    written = (folder / "a.py").read_bytes()
    assert not result.unparsable
    edits = result.files[0].edits
    assert all(not edit.old for edit in edits)
    assert len(edits) == len(listed)
    rest, at = b"", 0
    for edit, shift in zip(edits, _shifts(edits), strict=True):
        rest += written[at : edit.start + shift]
        at = edit.start + shift + len(edit.new)
    assert rest + written[at:] == data
    tree = ast.parse(written)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            added = node.keywords.pop()
            assert added.arg == "weights_only"
            assert isinstance(added.value, ast.Constant)
            assert added.value.value is True
    assert ast.dump(tree) == before


def _shifts(edits: tuple) -> list[int]:  # type: ignore[type-arg]
    total, listed = 0, []
    for edit in edits:
        listed.append(total)
        total += len(edit.new)
    return listed
