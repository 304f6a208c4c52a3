"""What a workload would want from the network and what of it is not here: asked before anybody waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bringup.plan.sequence import Given, weights_step
from bringup.recipes.schema import Recipe
from bringup.steps.sources import Supplies, archive_name
from bringup.steps.weights import weights_not_here


@dataclass(frozen=True)
class Missing:
    """One thing that has to be brought. `files`: of weights; `origin`: where it comes from."""

    kind: Literal["source", "wheels", "weights"]
    origin: str
    files: tuple[str, ...] = ()


def missing_supplies(
    recipe: Recipe, given: Given, pack: Path | None, find_links: Sequence[Path]
) -> tuple[Missing, ...]:
    """Source, wheels (judged by torch's) and weights that are not on this machine."""
    found: list[Missing] = []
    source = recipe.source
    if source and given.source is None:
        packed = pack / "sources" / archive_name(source.repository, source.commit) if pack else None
        if packed is None or not packed.is_file():
            found.append(Missing("source", f"{source.repository} @ {source.commit[:12]}"))
    if not any(_holds(folder, "torch-*.whl") for folder in find_links):
        found.append(Missing("wheels", f"torch {recipe.torch.range}, …"))
    supplies = Supplies(True, pack)
    for row in given.weights_of(recipe):
        names = weights_not_here(weights_step(row, given), supplies)
        if names:
            found.append(Missing("weights", row.repository or row.url or row.name, tuple(names)))
    return tuple(found)


def _holds(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None
