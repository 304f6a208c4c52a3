"""The message catalogue: every sentence that bringup says, in English and Chinese.

One folder a language, one TOML file a room; together they are one catalogue with dotted keys
(`errors.no-python`). Texts are `str.format` templates; parameters come from the caller.
"""

from __future__ import annotations

import locale
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from bringup.errors import BringupError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LANGUAGES = ("en", "zh")
_chosen: str | None = None


def choose_language(language: str | None) -> None:
    """Fix the language of this process; `None` returns to the locale's."""
    global _chosen
    if language is not None and language not in LANGUAGES:
        raise BringupError("unknown-language", exit_code=2, given=language, known=", ".join(LANGUAGES))
    _chosen = language


def current_language() -> str:
    """The language chosen with `--lang` or BRINGUP_LANG, else the locale's, else English."""
    if _chosen is not None:
        return _chosen
    for name in ("BRINGUP_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    system = locale.getlocale()[0] or ""
    return "zh" if system.lower().startswith(("zh", "chinese")) else "en"


def _flatten(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


@cache
def catalogue(language: str) -> dict[str, str]:
    """All texts of one language by dotted key."""
    texts: dict[str, str] = {}
    folder = resources.files(__package__) / language
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".toml"):
            for key, text in _flatten(tomllib.loads(file.read_text(encoding="utf-8"))):
                if key in texts:
                    raise ValueError(f"message {key} stands twice in the {language} catalogue")
                texts[key] = text
    return texts


def knows(key: str) -> bool:
    """Whether the catalogue has this key."""
    return key in catalogue("en")


def say(key: str, /, **parameters: object) -> str:
    """The text for `key` in the current language, with its parameters filled in.

    Raises:
        KeyError: the key is in no catalogue (a defect: a test compares keys and catalogue).
    """
    language = current_language()
    text = catalogue(language).get(key) or catalogue("en")[key]
    return text.format(**parameters)


def say_error(error: BringupError) -> str:
    """The paragraph for an error."""
    words = {key: _worded(value) for key, value in error.parameters.items()}
    if error.id.startswith(("checkpoint-", "rebuild-")) and current_language() == "zh":
        words |= {key: _in_chinese(str(words[key])) for key in _ENGLISH & words.keys()}
    return say(f"errors.{error.id}", **words)


# Parameters that hold an English text of the room `checkpoints`.
_ENGLISH = frozenset(["reason", "kind", "text", "limit", "step"])


@cache
def _chinese_reasons() -> tuple[tuple[re.Pattern[str], str], ...]:
    table = tomllib.loads((resources.files(__package__) / "zh_reasons.toml").read_text(encoding="utf-8"))
    return tuple(
        (re.compile(re.escape(key).replace(r"\{\}", "(.*)"), re.DOTALL), table[key]) for key in table
    )


def _in_chinese(text: str) -> str:
    for pattern, chinese in _chinese_reasons():
        match = pattern.fullmatch(text)
        if match:
            words = {"shape": "形状", "strides": "步长"}  # all else that is filled in are names and numbers
            return chinese.format(*(words.get(part, part) for part in match.groups()))
    return text


def _worded(value: object) -> object:
    """A planner's reasons in words; everything else as it is."""
    if not isinstance(value, tuple):
        return value
    from bringup.plan.model import Rejected  # Its models take longer to load than most commands run.

    if all(isinstance(row, Rejected) for row in value):
        return "; ".join(f"{row.what}: {say(f'reasons.{row.why.id}', **row.why.parameters)}" for row in value)
    return value
