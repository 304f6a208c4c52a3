"""How a recipe's `[[checkpoints]]` row meets one description: does it fit, which values, which names."""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bringup.checkpoints.conversion import SCHEMA
from bringup.errors import BringupError

LAYOUTS = ("safetensors", "state-dict", "module")
_NAME = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class BuildRequest:
    """What to build from a description.

    Attributes:
        class_path: "package.module:Class".
        keywords: for the constructor; text may hold templates, see `fill`.
        rename: regular expression → replacement, applied to every tensor name in this order.
        python_path: folders to put on the target's `sys.path`.
    """

    class_path: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    layout: str = "safetensors"
    python_path: tuple[str, ...] = ()


def read_description(path: Path) -> dict[str, Any]:
    """A `NAME.json` that `convert` wrote.

    Raises:
        BringupError: `rebuild-description`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BringupError("rebuild-description", exit_code=2, file=path, text=error) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BringupError("rebuild-description", exit_code=2, file=path, text=f"schema is not {SCHEMA}")
    return document


def fits(pattern: str, document: Mapping[str, Any]) -> bool:
    """Whether the converted file is one that `pattern` means.

    The last folder and the name are compared, with `*` and `?`; other endings fit too, since half-way
    files carry `.pt` where the original has `.model`.
    """
    source = document["source"]
    wanted = PurePosixPath(pattern)
    name, stem = source["file"], PurePosixPath(source["file"]).stem
    if fnmatch.fnmatchcase(name, wanted.name):
        return wanted.parent.name in ("", "**") or fnmatch.fnmatchcase(source["folder"], wanted.parent.name)
    return fnmatch.fnmatchcase(stem, wanted.stem)


def known_values(document: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values by name: keys beside the weights, hyper-parameters, the model's attributes."""
    tree = _items(document["tree"])
    model = tree
    for step in document["model"] or []:
        model = _items(model).get(step, {})
    found: dict[str, Any] = {}
    hyper = _items(tree).get("hyper_parameters", {})
    module = model.get("attributes", {}) if isinstance(model, dict) and "$module" in model else {}
    for source in (tree, _items(hyper), module):
        if isinstance(source, dict):
            found.update({key: value for key, value in source.items() if _is_plain(value)})
    return found


def _items(value: Any) -> Any:
    """The keys and values of a mapping, of whatever class (Lightning's `AttributeDict`)."""
    if isinstance(value, dict) and "$mapping" in value:
        return value["items"]
    if isinstance(value, dict) and "$object" in value:
        pairs = value.get("pairs", [])
        return {key: part for key, part in pairs if isinstance(key, str)} or value.get("state", {})
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))


def fill(template: Any, document: Mapping[str, Any]) -> Any:
    """A value with its templates filled in.

    `{attribute:NAME}` is a plain value of the checkpoint, `{folder}` the folder that it lay in, `{file}`
    and `{stem}` its name, `{default:JSON}` a constant; `|` between them means «or else». A text that is
    one template keeps the value's type.

    Raises:
        BringupError: `rebuild-template`.
    """
    if not isinstance(template, str):
        return template
    whole = _NAME.fullmatch(template)
    if whole:
        return _value(whole[1], template, document)
    return _NAME.sub(lambda match: str(_value(match[1], template, document)), template)


def _value(names: str, template: str, document: Mapping[str, Any]) -> Any:
    values = known_values(document)
    source = document["source"]
    for name in names.split("|"):
        kind, _, rest = name.partition(":")
        if kind == "attribute" and rest in values:
            return values[rest]
        if kind in ("folder", "file"):
            return source[kind]
        if kind == "stem":
            return PurePosixPath(source["file"]).stem
        if kind == "default":
            return json.loads(rest)
    known = ", ".join(sorted(values)[:20])
    raise BringupError("rebuild-template", template=template, name=names, file=source["file"], known=known)


def rename(names: Iterable[str], rules: Mapping[str, str]) -> dict[str, str]:
    """New name of each tensor.

    Raises:
        BringupError: `rebuild-rename` for a rule that is no regular expression, or two names that become one.
    """
    renamed: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        new = name
        for pattern, replacement in rules.items():
            new = _substitute(pattern, replacement, new)
        if new in taken:
            text = f"{taken[new]}, {name} → {new}"
            raise BringupError("rebuild-rename", exit_code=2, rule=", ".join(rules), text=text)
        taken[new] = name
        renamed[name] = new
    return renamed


def _substitute(pattern: str, replacement: str, name: str) -> str:
    try:
        return re.sub(pattern, replacement, name)
    except (re.error, IndexError) as error:
        raise BringupError("rebuild-rename", exit_code=2, rule=pattern, text=error) from error


def nearest(name: str, shape: list[int], candidates: list[tuple[str, list[int]]]) -> str | None:
    """The likeliest counterpart of a key: of the same shape if there is one, then by name."""
    same_shape = [other for other, its_shape in candidates if its_shape == shape]
    for names in (same_shape, [other for other, _ in candidates]):
        found = difflib.get_close_matches(name, names[:2000], n=1, cutoff=0.4)
        if found:
            return found[0]
    return None
