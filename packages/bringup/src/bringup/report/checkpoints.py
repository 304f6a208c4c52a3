"""Checkpoints for people and programs: the tree, the globals with their verdicts, what was converted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bringup.checkpoints import Checkpoint, Conversion, printable
from bringup.checkpoints.conversion import globals_json
from bringup.errors import BringupError
from bringup.report.messages import say, say_error
from bringup.report.progress import duration, size
from bringup.steps.rebuild import KeysDiffer, Rebuilt

_LINES_OF_VALUE = 100


def inspection_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """One entry of `bringup/inspect/1`."""
    return {
        "file": str(checkpoint.path),
        "ok": True,
        "format": checkpoint.format,
        "verdict": checkpoint.verdict,
        "globals": globals_json(checkpoint),
        "model": list(checkpoint.model.path) if checkpoint.model else None,
        "tensors": checkpoint.layout.descriptions,
        "tree": checkpoint.tree,
    }


def conversion_json(conversion: Conversion) -> dict[str, Any]:
    """One entry of `bringup/convert/1`."""
    return {
        "file": str(conversion.source),
        "ok": True,
        "verdict": conversion.verdict,
        "description": str(conversion.description),
        "files": [str(file) for file in conversion.files],
        "tensors": conversion.tensors,
        "bytes": conversion.bytes,
        "seconds": round(conversion.seconds, 4),
    }


def failure_json(file: object, error: BringupError) -> dict[str, Any]:
    """The entry of a file that was refused."""
    parameters = {name: str(value) for name, value in error.parameters.items()}
    row: dict[str, Any] = {"file": str(file), "ok": False}
    row["error"] = {"id": error.id, "text": say_error(error), "parameters": parameters}
    if isinstance(error, KeysDiffer):
        row["keys"] = [dataclasses.asdict(problem) for problem in error.problems]
    return row


def rebuilt_json(rebuilt: Rebuilt) -> dict[str, Any]:
    """One entry of `bringup/rebuild/1`."""
    return {
        "file": str(rebuilt.description),
        "ok": True,
        "output": str(rebuilt.output),
        "class": rebuilt.class_path,
        "layout": rebuilt.layout,
        "tensors": rebuilt.tensors,
        "torch": rebuilt.torch,
        "weights_only": rebuilt.layout != "module",
    }


def rebuilt_line(rebuilt: Rebuilt) -> str:
    """One line for a person."""
    file, output = printable(rebuilt.description.name), printable(str(rebuilt.output))
    facts = {"tensors": rebuilt.tensors, "layout": rebuilt.layout}
    return say("checkpoints.rebuilt", file=file, output=output, **facts)


def keys_table(error: KeysDiffer) -> Table:
    """The keys that do not fit, with their nearest counterparts."""
    class_path = error.parameters["class_path"]
    table = Table(title=say("checkpoints.keys-title", class_path=class_path), title_justify="left", box=None)
    for column in ("problem", "key", "shape", "nearest"):
        table.add_column(say(f"checkpoints.column-{column}"), overflow="fold")
    for problem in error.problems:
        key, near = Text(printable(problem.key)), Text(printable(problem.nearest or ""))
        table.add_row(say(f"checkpoints.{problem.kind}"), key, Text(problem.shape), near)
    return table


def conversion_line(conversion: Conversion) -> str:
    """One line for a person."""
    return say(
        "checkpoints.converted",
        file=printable(conversion.source.name),
        tensors=conversion.tensors,
        size=size(conversion.bytes),
        seconds=duration(conversion.seconds),
        description=printable(str(conversion.description)),
    )


def print_inspection(checkpoint: Checkpoint, console: Console) -> None:
    """Tree, globals, verdict."""
    console.print(printable(str(checkpoint.path)), style="bold", markup=False)
    console.print(say("checkpoints.format", format=checkpoint.format), markup=False)
    for line in tree_lines(checkpoint):
        console.print(line, markup=False, no_wrap=True, overflow="ignore", crop=False)
    if checkpoint.globals:
        console.print(_globals_table(checkpoint))
    else:
        console.print(say("checkpoints.no-globals"))
    verdict = say(f"checkpoints.verdicts.{checkpoint.verdict}")
    console.print(say("checkpoints.verdict", verdict=verdict), style="bold", markup=False)


def _globals_table(checkpoint: Checkpoint) -> Table:
    table = Table(title=say("checkpoints.globals-title"), title_justify="left", box=None, pad_edge=False)
    table.add_column(say("checkpoints.column-global"), overflow="fold")
    table.add_column(say("checkpoints.column-verdict"))
    table.add_column(say("checkpoints.column-uses"))
    for use in checkpoint.globals:
        uses = ", ".join(say(f"checkpoints.uses.{name}") for name in sorted(use.uses))
        name = printable(f"{use.module}.{use.name}".strip("."))
        table.add_row(Text(name), say(f"checkpoints.verdicts.{use.verdict}"), uses)
    return table


def tree_lines(checkpoint: Checkpoint) -> Iterator[str]:
    """The tree, two spaces a level: modules with class names, tensors with type and shape, plain values."""
    descriptions = checkpoint.layout.descriptions
    yield from _lines("", checkpoint.tree, descriptions, 0)


def _lines(name: str, value: Any, tensors: dict[str, Any], level: int) -> Iterator[str]:
    indent = "  " * level + (printable(name) + ": " if name else "")
    if isinstance(value, dict) and "$tensor" in value:
        tensor = tensors.get(value["$tensor"] or "")
        text = f"{tensor['dtype']} {tensor['shape']}" if tensor else f"tensor {value.get('shape', '')}"
        layout = tensor["layout"] if tensor else "strided"
        yield indent + text + ("" if layout == "strided" else f" {layout}")
    elif isinstance(value, dict) and "$module" in value:
        yield indent + printable(value["$module"])
        for part in ("attributes", "parameters", "buffers", "modules"):
            for key, inner in value.get(part, {}).items():
                if part != "attributes" or not key.startswith("_"):
                    yield from _lines(key, inner, tensors, level + 1)
    elif isinstance(value, dict) and "$object" in value:
        yield indent + printable(value["$object"])
        for key, inner in value.items():
            if key != "$object":
                yield from _lines(key, inner, tensors, level + 1)
    elif isinstance(value, dict) and value and not any(key.startswith("$") for key in value):
        yield indent + "{" + str(len(value)) + "}"
        for key, inner in value.items():
            yield from _lines(key, inner, tensors, level + 1)
    elif isinstance(value, dict) and "$mapping" in value:
        yield from _lines(name, value["items"], tensors, level)
    elif isinstance(value, (list, dict)) and _has_tensor(value):
        inner_list = value if isinstance(value, list) else next(iter(value.values()))
        yield f"{indent}[{len(inner_list) if isinstance(inner_list, list) else 1}]"
        for index, inner in enumerate(inner_list if isinstance(inner_list, list) else [inner_list]):
            yield from _lines(str(index), inner, tensors, level + 1)
    else:
        text = printable(str(value))
        yield indent + (text if len(text) <= _LINES_OF_VALUE else text[:_LINES_OF_VALUE] + " …")


def _has_tensor(value: Any) -> bool:
    """Whether something worth a line of its own is inside."""
    if isinstance(value, dict):
        marks = ("$tensor", "$module", "$object")
        return any(mark in value for mark in marks) or any(_has_tensor(part) for part in value.values())
    return isinstance(value, list) and any(_has_tensor(part) for part in value)
