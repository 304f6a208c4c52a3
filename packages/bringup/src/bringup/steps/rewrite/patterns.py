"""What literals tell about a loaded file: `os.path.join(d, f"{h}_Rigid_{i}.model")` → `*/*_Rigid_*.model`."""

from __future__ import annotations

import ast
import glob
import re
from collections.abc import Mapping

import libcst as cst
from libcst.helpers import get_full_name_for_node

_JOINS = frozenset(("join", "joinpath"))
_WRAPPERS = frozenset(("str", "Path", "PurePath", "open", "fspath", "expanduser", "abspath", "realpath"))
_FORMAT = re.compile(r"\{[^{}]*\}|%[-+ #0-9.]*[a-z]")


def _text(node: cst.BaseExpression, literals: Mapping[str, cst.BaseExpression | None], depth: int) -> str:
    """The value as a glob; `*` for what cannot be told."""
    if depth > 8:
        return "*"
    if isinstance(node, cst.SimpleString):
        value = ast.literal_eval(node.value)
        return glob.escape(value) if isinstance(value, str) else "*"
    if isinstance(node, cst.ConcatenatedString):
        return _text(node.left, literals, depth + 1) + _text(node.right, literals, depth + 1)
    if isinstance(node, cst.FormattedString):
        parts = (
            glob.escape(part.value) if isinstance(part, cst.FormattedStringText) else "*"
            for part in node.parts
        )
        return "".join(parts)
    if isinstance(node, (cst.Name, cst.Attribute)):
        known = literals.get(get_full_name_for_node(node) or "")
        return _text(known, literals, depth + 1) if known is not None else "*"
    if isinstance(node, cst.BinaryOperation):
        return _operation(node, literals, depth)
    if isinstance(node, cst.Call):
        return _call(node, literals, depth)
    return "*"


def _operation(
    node: cst.BinaryOperation, literals: Mapping[str, cst.BaseExpression | None], depth: int
) -> str:
    left = _text(node.left, literals, depth + 1)
    if isinstance(node.operator, cst.Modulo):
        return _FORMAT.sub("*", left)
    right = _text(node.right, literals, depth + 1)
    if isinstance(node.operator, cst.Add):
        return left + right
    return f"{left}/{right}" if isinstance(node.operator, cst.Divide) else "*"


def _call(node: cst.Call, literals: Mapping[str, cst.BaseExpression | None], depth: int) -> str:
    name = node.func.attr.value if isinstance(node.func, cst.Attribute) else getattr(node.func, "value", "")
    values = [_text(argument.value, literals, depth + 1) for argument in node.args if not argument.star]
    if name == "format" and isinstance(node.func, cst.Attribute):
        return _FORMAT.sub("*", _text(node.func.value, literals, depth + 1))
    if name in _JOINS:
        return "/".join(["*", *values])
    return values[0] if name in _WRAPPERS and values else "*"


def glob_of(node: cst.BaseExpression, literals: Mapping[str, cst.BaseExpression | None]) -> str | None:
    """A glob of the loaded path, or None where its last part holds too little that is known.

    Args:
        node: the expression that is loaded.
        literals: name → the only value that the file assigns to it, None where there are several.
    """
    pattern = re.sub(r"\*+", "*", _text(node, literals, 0).replace("\\", "/"))
    last = pattern.rsplit("/", 1)[-1]
    stem, _, suffix = last.rpartition(".")
    known = stem.replace("*", "")
    return pattern if len(known) >= 2 and suffix and "*" not in suffix else None
