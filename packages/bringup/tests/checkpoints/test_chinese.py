"""Whatever the room says in English inside a sentence has its Chinese."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

import bringup.checkpoints
from bringup.checkpoints import open_checkpoint
from bringup.errors import BringupError
from bringup.report.messages import choose_language, say_error

from .attacks import DAMAGED
from .test_hostile_containers import AMBIGUOUS, LIES, TARS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SAYING = ("fault", "refuse", "ambiguous")
SOURCES = sorted(Path(bringup.checkpoints.__file__).parent.glob("*.py"))


def template(node: ast.expr) -> str | None:
    """A text with {} for what is filled in; `None` for what is no literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def said() -> Iterator[str]:
    """Every text that the room hands over as a reason, and the names of its limits."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            found = node.args[:1] if name in (*SAYING, "exceeded") else []
            found += [row.value for row in node.keywords if row.arg in ("reason", "kind", "text")]
            yield from (text for text in map(template, found) if text is not None)


def table() -> dict[str, str]:
    file = resources.files("bringup.report.messages") / "zh_reasons.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def test_every_reason_has_its_chinese() -> None:
    texts = set(said())
    assert len(texts) > 80 and texts <= table().keys(), texts - table().keys()


@pytest.mark.parametrize("english", table())
def test_both_have_the_same_places(english: str) -> None:
    places = {str(number) for number in range(english.count("{}"))}
    assert set(re.findall(r"\{(\d+)\}", table()[english])) == places


BAD = (
    DAMAGED
    | AMBIGUOUS
    | LIES
    | {name: data for name, (id, data) in TARS.items() if id.startswith("checkpoint")}
)


@pytest.mark.parametrize("name", BAD)
def test_sentences_are_chinese_throughout(name: str, tmp_path: Path) -> None:
    """No two English words follow each other, names and commands aside."""
    path = tmp_path / "x.pt"
    path.write_bytes(BAD[name])
    with pytest.raises(BringupError) as caught, open_checkpoint(path) as checkpoint:
        assert checkpoint.tree is ... or checkpoint.layout is ...
    choose_language("zh")
    try:
        text = say_error(caught.value).replace(str(path), "")
    finally:
        choose_language(None)
    assert not re.search(r"[A-Za-z]{3,} [a-z]{3,}", text), text
