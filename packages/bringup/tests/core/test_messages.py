"""Every sentence exists in both languages, with the same parameters, and every error has one."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

import bringup
from bringup.errors import BringupError
from bringup.report import messages

SOURCE = Path(bringup.__file__).parent


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_say_the_same_things() -> None:
    english, chinese = messages.catalogue("en"), messages.catalogue("zh")
    assert sorted(english) == sorted(chinese)
    for key in english:
        assert placeholders(english[key]) == placeholders(chinese[key]), key


def raised_errors() -> list[tuple[str, str, set[str]]]:
    """(file, id, parameter names) of every `BringupError("id", …)` in the source."""
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "BringupError" and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    names = {word.arg or "**" for word in node.keywords}
                    found.append((file.relative_to(SOURCE).as_posix(), first.value, names))
    return found


def test_errors_are_found_in_the_source() -> None:
    assert len(raised_errors()) > 30


@pytest.mark.parametrize(("file", "id", "names"), raised_errors())
def test_every_error_has_words(file: str, id: str, names: set[str]) -> None:
    text = messages.catalogue("en")[f"errors.{id}"]
    # Readers of checkpoints learn their path from who called them; `**` and what is added to
    # `error.parameters` later cannot be seen here.
    added_later = id in ("driver-blocks", "rebuild-failed", "rebuild-crashed") or "**" in names
    known = names | {"path", "file"}
    assert added_later or placeholders(text) <= known, f"{file}: {id} does not get all that its text names"


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LC_ALL": "C.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"BRINGUP_LANG": "zh", "LANG": "en_US.UTF-8"}, "zh"),
    ],
)
def test_language_follows_the_locale(
    variables: dict[str, str], language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BRINGUP_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    messages.choose_language(None)
    assert messages.current_language() == language


def test_unknown_language_is_refused() -> None:
    with pytest.raises(BringupError, match="unknown-language"):
        messages.choose_language("xx")
