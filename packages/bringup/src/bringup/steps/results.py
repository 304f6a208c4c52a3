"""Pictures, meshes and scenes that a run has made, where the recipe says that they lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bringup.recipes.schema import Recipe
from bringup.steps.run import Run, stages_of

_OPTION = re.compile(r"\{option:([^|}]+)\|([^}]*)\}")
_MOST = 8


@dataclass(frozen=True)
class Result:
    """One file, and the stage that made it."""

    stage: str
    file: Path


def option_value(arguments: Sequence[str], names: Sequence[str], default: str) -> str:
    """What the user gave an option of the workload (`-m DIR`, `--model_path=DIR`), else its default."""
    value = default
    for number, word in enumerate(arguments):
        name, equals, given = word.partition("=")
        if name in names:
            if equals:
                value = given
            elif number + 1 < len(arguments):
                value = arguments[number + 1]
    return value


def results_of(recipe: Recipe, run: Run, since: float | None = None) -> tuple[Result, ...]:
    """The newest files of each stage's `results`, at most eight in all.

    Args:
        run: with its places (see `with_places`).
        since: seconds since the epoch; what is older was there before.
    """
    found: list[Result] = []
    for stage in stages_of(recipe, run):
        for pattern in stage.results:
            for file in _matching(pattern, run):
                if file not in [row.file for row in found] and (not since or file.stat().st_mtime >= since):
                    found.append(Result(stage.name, file))
    return tuple(found[:_MOST])


def _matching(pattern: str, run: Run) -> list[Path]:
    """The newest files of one pattern, in the order of their names."""
    places = {"run": str(run.folder), "data": str(run.data), **run.places}
    option = _OPTION.search(pattern)
    if option:
        value = option_value(run.arguments, option[1].split(","), option[2]).rstrip("/") or "/"
        # A folder that is given from the root replaces what stands before it.
        head = "" if Path(value).is_absolute() else pattern[: option.start()]
        pattern = head + value + pattern[option.end() :]
    path = Path(re.sub(r"\{(\w+)\}", lambda match: places.get(match[1], match[0]), pattern))
    anchor = Path(path.anchor or ".")
    files = [file for file in anchor.glob(str(path.relative_to(anchor))) if file.is_file()]
    newest = sorted(files, key=lambda file: file.stat().st_mtime_ns)[-_MOST:]
    return sorted(newest)
