"""Workloads as data: what to install, convert, patch, prove and run. Schema and the built-in recipes."""

from __future__ import annotations

import difflib
import sys
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from bringup.errors import BringupError
from bringup.recipes.schema import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Recipe", "built_in", "load", "parse"]


def built_in() -> tuple[str, ...]:
    """Names of the recipes that come with bringup."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def parse(text: str, origin: str) -> Recipe:
    """Check a recipe's text.

    Raises:
        BringupError: `recipe-syntax` or `recipe-invalid`, naming the place and the rule.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BringupError("recipe-syntax", exit_code=2, origin=origin, text=error) from error
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise BringupError(
            "recipe-invalid",
            exit_code=2,
            origin=origin,
            place=place,
            text=first["msg"].removeprefix("Value error, "),
            count=error.error_count(),
        ) from error


def load(name_or_path: str) -> Recipe:
    """A built-in recipe by name, or a user's own by path.

    Raises:
        BringupError: `unknown-recipe` with the nearest names; what `parse` raises.
    """
    if name_or_path in built_in():
        text = (resources.files(__package__) / f"{name_or_path}.toml").read_text(encoding="utf-8")
        return parse(text, name_or_path)
    path = Path(name_or_path)
    if path.is_file():
        try:
            return parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError, RecursionError) as error:
            raise BringupError("recipe-unreadable", exit_code=2, origin=path, text=error) from error
    near = difflib.get_close_matches(name_or_path, built_in(), n=1)
    raise BringupError(
        "unknown-recipe",
        exit_code=2,
        given=name_or_path,
        known=", ".join(built_in()),
        nearest=near[0] if near else built_in()[0],
    )
