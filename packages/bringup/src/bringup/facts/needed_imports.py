"""Which modules a Python file cannot do without, and which are built beside it. Nothing of it is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from bringup.facts.project_requirements import is_beside_the_project

_GOES_ON = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_ASIDE = {"example", "examples", "benchmark", "benchmarks", "notebooks"}
_OF_TOOLS = {"setup.py", "conftest.py", "noxfile.py", "versioneer.py"}
_CMAKE_MODULE = re.compile(
    r"\b(?:pybind11_add_module|nanobind_add_module|python\d?_add_library|add_library)\s*\(\s*([A-Za-z]\w*)",
    re.IGNORECASE,
)


def is_of_the_work(file: str) -> bool:
    """Whether running the project takes this file: no setup.py, none of its tests, documents, examples."""
    path = PurePosixPath(file)
    return not (is_beside_the_project(file) or path.name in _OF_TOOLS or path.parts[0] in _ASIDE)


def needed_imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(top-level module, line) of what is imported whatever happens, in the order of lines.

    Not what stands below an `if` (but that of a script) or in a `try` that goes on without.
    """
    found: list[tuple[int, str]] = []
    waiting: list[ast.AST] = [tree]
    while waiting:  # No recursion: code may be nested without end.
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.lineno, node.module))
        elif not _is_optional(node):
            waiting += ast.iter_child_nodes(node)
    for line, name in sorted(found):
        yield name.partition(".")[0], line


def _is_optional(node: ast.AST) -> bool:
    """Whether what stands below may be left out of a run."""
    if isinstance(node, ast.If):
        return "__name__" not in _names(node.test)
    if isinstance(node, ast.With):
        named = [_names(item.context_expr) for item in node.items]
        return any("suppress" in names and names & _GOES_ON for names in named)
    handlers = getattr(node, "handlers", ())  # Of `try`, and of `except*` where this Python knows it.
    return any(handler.type is None or _names(handler.type) & _GOES_ON for handler in handlers)


def _names(node: ast.AST) -> set[str]:
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names | {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}


def modules_of_setup(tree: ast.AST) -> Iterator[str]:
    """Parts of the names of a setup.py's extensions: `CUDAExtension("pkg._C", …)` → "pkg", "_C"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and any(name.endswith("Extension") for name in _names(node.func)):
            named = [word.value for word in node.keywords if word.arg == "name"] or node.args[:1]
            for value in named:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield from value.value.split(".")


def modules_of_cmake(text: str) -> set[str]:
    """Names of the libraries that a CMakeLists.txt makes."""
    return set(_CMAKE_MODULE.findall(text))
