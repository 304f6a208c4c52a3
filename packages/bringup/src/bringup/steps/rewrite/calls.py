"""Every call of `torch.load` in a Python text, and what can be done about each: libcst's scopes decide."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import libcst as cst
from libcst import metadata
from libcst.helpers import get_full_name_for_node

from bringup.steps.rewrite.patterns import glob_of

TORCH_LOAD = frozenset(("torch.load", "torch.serialization.load"))
# With weights_only=True torch.load takes these; `fix_imports` and `errors` only reach a full unpickler.
_KEYWORDS = frozenset(("f", "map_location", "mmap", "encoding"))
# What a module has and a state dict or a tensor has not.
_OF_MODULES = frozenset(
    ("eval", "train", "state_dict", "load_state_dict", "parameters", "named_parameters", "modules", "forward")
)


@dataclass(frozen=True)
class Edit:
    """Characters `[start, end)` of the text are replaced by `new`."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class LoadCall:
    """A call of torch.load, or a mention of it that is no call.

    Attributes:
        start, end: its characters in the text.
        argument: source of what is loaded, "" if it cannot be told.
        glob: pattern of the file's name as far as literals tell it, None if they do not.
        state: "missing" (nothing is said), "said" (weights_only is there already), or why the call is
            left alone: "starred-keywords", "pickle-module", "unpickler-keyword", "other-binding",
            "reference" (the function is passed on, not called), "generator".
        whole_module: what it gives is used as a module (`.eval()`), so the file holds more than tensors.
        add: the insertion but for its value (`\\0` marks its place), None for what is left alone for good.
        value: where the value of an existing weights_only stands.
    """

    start: int
    end: int
    argument: str
    glob: str | None
    state: str
    whole_module: bool = False
    add: Edit | None = None
    value: tuple[int, int] | None = None


class _Span:
    """Spans of nodes in characters of the text: libcst counts UTF-8 bytes of the text without form feeds."""

    def __init__(self, text: str, parsed: str, spans: object) -> None:
        self._data = parsed.encode("utf-8")
        self._spans = spans
        feeds = [at for at, sign in enumerate(text) if sign == "\f"]
        self._shifts = [at - number for number, at in enumerate(feeds)]

    def _whole(self, position: int) -> int:
        return position + bisect.bisect_right(self._shifts, position)

    def of(self, node: cst.CSTNode) -> tuple[int, int]:
        span = self._spans[node]  # type: ignore[index]
        start = len(self._data[: span.start].decode("utf-8"))
        length = len(self._data[span.start : span.start + span.length].decode("utf-8"))
        return self._whole(start), self._whole(start + length - 1) + 1


def _origin(names: Iterable[metadata.QualifiedName], written: str | None) -> str:
    """ "torch", "other-binding" (it may be torch's and may be another's), or "" for another function."""
    listed = list(names)
    imported = {name.name for name in listed if name.source is metadata.QualifiedNameSource.IMPORT}
    if imported & TORCH_LOAD:
        return "other-binding" if imported - TORCH_LOAD else "torch"
    if written in TORCH_LOAD and not imported:
        # Bound by nothing in the file: a star import brought it. Bound to something local: who knows.
        return "other-binding" if listed else "torch"
    return ""


def _judge(call: cst.Call) -> tuple[str, cst.BaseExpression | None]:
    """`LoadCall.state` by the arguments, and the value of weights_only if it is said."""
    positional = [argument for argument in call.args if argument.keyword is None and not argument.star]
    for argument in call.args:
        if argument.keyword is not None and argument.keyword.value == "weights_only":
            return "said", argument.value
    if any(argument.star == "**" for argument in call.args):
        return "starred-keywords", None
    keywords = {argument.keyword.value for argument in call.args if argument.keyword is not None}
    named = [a.value for a in call.args if a.keyword is not None and a.keyword.value == "pickle_module"]
    # None is what torch itself takes where no pickle module is named.
    named += [a.value for a in positional[2:3]]
    given = any(not (isinstance(value, cst.Name) and value.value == "None") for value in named)
    if given or len(positional) > 3 or any(a.star == "*" for a in call.args):
        return "pickle-module", None
    if keywords - _KEYWORDS - {"pickle_module"}:
        return "unpickler-keyword", None
    if any(
        isinstance(argument.value, cst.GeneratorExp) and not argument.value.lpar for argument in call.args
    ):
        return "generator", None
    return "missing", None


def _loaded(call: cst.Call) -> cst.BaseExpression | None:
    for argument in call.args:
        if argument.star:
            return None
        if argument.keyword is None or argument.keyword.value == "f":
            return argument.value
    return None


def _insertion(text: str, call: cst.Call, span: _Span, multiline: bool) -> Edit:
    """Where `weights_only=` goes: on its own line where each argument has one, else behind the last."""
    close = span.of(call)[1] - 1
    if not call.args:
        return Edit(close, close, "weights_only=\0")
    last = span.of(call.args[-1])[1]  # The argument's, not its value's: parentheses are the argument's.
    tail = text[last:close]
    comma = call.args[-1].comma
    if multiline and isinstance(comma, cst.Comma):
        ending = next((sign for sign in ("\r\n", "\n", "\r") if sign in tail), None)
        after = tail.rfind(ending) + len(ending) if ending else -1
        lines = text[: span.of(call.args[-1])[0]].replace("\r", "\n").rsplit("\n", 1)
        indent = lines[-1]
        if ending and after > tail.index(",") and not indent.strip() and len(lines) == 2:
            return Edit(last + after, last + after, indent + "weights_only=\0," + ending)
    return Edit(last, last, ", weights_only=\0")


class _Finder(cst.CSTVisitor):
    """Collects calls, and what is done in each function with what they give."""

    def __init__(self, text: str, names: object, span: _Span) -> None:
        self._text = text
        self._names = names
        self._span = span
        self.calls: dict[cst.Call, tuple[str, cst.BaseExpression | None]] = {}
        self.literals: dict[str, cst.BaseExpression | None] = {}
        self.references: list[cst.CSTNode] = []
        self.modules: set[cst.Call] = set()
        self._functions: set[cst.CSTNode] = set()
        self._scopes: list[dict[str, cst.Call | None]] = [{}]
        self._starred = False

    def _is_load(self, node: cst.CSTNode) -> str:
        names = self._names.get(node, ())  # type: ignore[attr-defined]
        listed = list(names() if callable(names) else names)
        written = get_full_name_for_node(node)
        if self._starred and written == "load" and not listed:
            return "other-binding"  # torch's own, unless a later star import brought another.
        return _origin(listed, written)

    def visit_Call(self, node: cst.Call) -> None:
        if isinstance(node.func, (cst.Name, cst.Attribute)):
            origin = self._is_load(node.func)
            if origin:
                self._functions.add(node.func)
                state, value = _judge(node)
                self.calls[node] = (state if origin == "torch" or state == "said" else origin, value)

    def visit_Import(self, node: cst.Import) -> bool:
        return False

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        module = get_full_name_for_node(node.module) if node.module else ""
        if isinstance(node.names, cst.ImportStar) and not node.relative:
            self._starred = self._starred or module in ("torch", "torch.serialization")
        return False

    def visit_Attribute(self, node: cst.Attribute) -> None:
        if node not in self._functions and node.attr.value == "load" and self._is_load(node) == "torch":
            self.references.append(node)

    def leave_Attribute(self, original_node: cst.Attribute) -> None:
        if original_node.attr.value in _OF_MODULES:
            call = self._root(original_node.value)
            if call is not None:
                self.modules.add(call)

    def visit_Name(self, node: cst.Name) -> None:
        # Only a name that an import bound; its own definition is no mention.
        if node in self._functions or node.value in ("torch", "weights_only"):
            return
        names = self._names.get(node, ())  # type: ignore[attr-defined]
        listed = list(names() if callable(names) else names)
        if listed and all(n.name in TORCH_LOAD and n.source.name == "IMPORT" for n in listed):
            self.references.append(node)

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self._scopes.append({})

    def leave_FunctionDef(self, original_node: cst.FunctionDef) -> None:
        self._scopes.pop()

    def leave_Assign(self, original_node: cst.Assign) -> None:
        for target in original_node.targets:
            written = get_full_name_for_node(target.target)
            if written and isinstance(target.target, (cst.Name, cst.Attribute)):
                # Two assignments of one name: which one a later use means is not ours to guess.
                self.literals[written] = None if written in self.literals else original_node.value
            if isinstance(target.target, cst.Name):
                name = target.target.value
                call = self._root(original_node.value)
                scope = self._scopes[-1]
                scope[name] = call if scope.get(name, call) is call else None

    def _root(self, node: cst.BaseExpression) -> cst.Call | None:
        """The torch.load whose value, item or attribute this is: `torch.load(p)["model"].to(d)`."""
        while True:
            if isinstance(node, cst.Call) and node in self.calls:
                return node
            if isinstance(node, cst.Name):
                return self._scopes[-1].get(node.value)
            if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
                node = node.func.value
            elif isinstance(node, (cst.Attribute, cst.Subscript)):
                node = node.value
            else:
                return None


def _describe(finder: _Finder, text: str, span: _Span, call: cst.Call, multiline: bool) -> LoadCall:
    state, value = finder.calls[call]
    start, end = span.of(call)
    loaded = _loaded(call)
    argument = text[slice(*span.of(loaded))] if loaded is not None else ""
    glob = glob_of(loaded, finder.literals) if loaded is not None else None
    module = call in finder.modules
    if value is not None:
        return LoadCall(start, end, argument, glob, state, module, value=span.of(value))
    addable = state in ("missing", "pickle-module", "unpickler-keyword")
    add = _insertion(text, call, span, multiline) if addable else None
    return LoadCall(start, end, argument, glob, state, module, add)


def find_calls(text: str, multiline: bool = True) -> Sequence[LoadCall]:
    """Calls and mentions of torch.load, in the order of the text.

    Args:
        multiline: whether an insertion may be a line of its own.

    Raises:
        libcst.ParserSyntaxError: the text is no Python 3.
        ValueError: libcst does not give the same text back (a defect there; nothing may be edited).
    """
    # libcst loses form feeds between lines; they mean nothing there.
    parsed = text.replace("\f", "")
    module = cst.parse_module(parsed)
    if module.code != parsed:
        raise ValueError("the parser does not give the text back")
    wrapper = metadata.MetadataWrapper(module, unsafe_skip_copy=True)
    span = _Span(text, parsed, wrapper.resolve(metadata.ByteSpanPositionProvider))
    finder = _Finder(text, wrapper.resolve(metadata.QualifiedNameProvider), span)
    wrapper.module.visit(finder)
    found = [_describe(finder, text, span, call, multiline) for call in finder.calls]
    found += [LoadCall(*span.of(node), "", None, "reference") for node in finder.references]
    return sorted(found, key=lambda call: (call.start, -call.end))
