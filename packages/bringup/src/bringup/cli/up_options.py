"""Which options of `bringup up` go together: what would be ignored is refused in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bringup.recipes.schema import Recipe

_CONTAINER_ALONE = ("--license", "--device", "--task", "--resume", "--engine", "--json")
_NOT_IN_A_CONTAINER = (
    "--project",
    "--demo",
    "--data",
    "--prefer",
    "--source",
    "--weights",
    "--models",
    "--from",
    "--installer",
    "--overlay",
    "--debug-cuda",
)
_OF_RECIPES = ("--demo", "--data", "--profile", "--source", "--weights", "--models", "--from")


@dataclass(frozen=True)
class UpOptions:
    """What `up` was given, as it was given; `given` names the options that were."""

    recipe: str | None
    words: tuple[str, ...]
    project: Path | None
    demo: bool
    data: Path | None
    out: Path | None
    gpu: tuple[str, ...]
    cpu: bool
    profile: str | None
    prefer: str | None
    source: Path | None
    weights: Path | None
    models: Path | None
    pack: Path | None
    installer: str | None
    find_links: tuple[Path, ...]
    overlay: Path | None
    offline: bool
    fresh: bool
    debug_cuda: bool
    bids: Path | None
    licence: Path | None
    device: str | None
    task: str | None
    resume: bool
    engine: str | None
    dry_run: bool
    as_json: bool

    @property
    def given(self) -> frozenset[str]:
        """The options that were given, by their names on the command line."""
        values = {
            "--project": self.project,
            "--demo": self.demo,
            "--data": self.data,
            "--profile": self.profile,
            "--prefer": self.prefer,
            "--source": self.source,
            "--weights": self.weights,
            "--models": self.models,
            "--from": self.pack,
            "--installer": self.installer,
            "--overlay": self.overlay,
            "--debug-cuda": self.debug_cuda,
            "--license": self.licence,
            "--device": self.device,
            "--task": self.task,
            "--resume": self.resume,
            "--engine": self.engine,
            "--json": self.as_json,
        }
        return frozenset(name for name, value in values.items() if value not in (None, False))


def refuse_what_does_not_fit(options: UpOptions, recipe: Recipe | None) -> None:
    """Refuse options that this run would not read.

    Raises:
        BringupError: `up-needs-bids`, `up-not-with-bids`, `up-not-with-project`, `up-not-of-recipe`,
            `up-on-what`, `up-in-its-image`, `participant-options`, `demo-or-data`, `gpu-or-cpu`,
            `no-given-folder`.
    """
    from bringup.errors import BringupError

    name = recipe.name if recipe else "RECIPE"
    if options.demo and options.data is not None:
        raise BringupError("demo-or-data", exit_code=2, recipe=name)
    if options.cpu and options.gpu:
        raise BringupError("gpu-or-cpu", exit_code=2)
    if options.bids is not None:
        _refuse("up-not-with-bids", _NOT_IN_A_CONTAINER, options)
        if recipe is None or options.licence is None or options.out is None:
            raise BringupError("participant-options", exit_code=2, recipe=name if recipe else "deepprep")
        return
    _refuse("up-needs-bids", _CONTAINER_ALONE, options)
    if options.project is not None:
        _refuse("up-not-with-project", _OF_RECIPES, options)
    elif recipe is not None:
        _refuse("up-not-of-recipe", _not_of(recipe), options, recipe=recipe.name)
        _require_a_stage(options, recipe)
    _require_folders(options)


def _refuse(error: str, options: Iterable[str], given: UpOptions, **parameters: str) -> None:
    from bringup.errors import BringupError

    found = [name for name in options if name in given.given]
    if found:
        raise BringupError(error, exit_code=2, option=", ".join(found), **parameters)


def _require_folders(options: UpOptions) -> None:
    """Refuse folders that are not there, before gigabytes are fetched that they were to spare."""
    from bringup.errors import BringupError

    links = [("--find-links", folder) for folder in options.find_links]
    for name, folder in [("--weights", options.weights), ("--models", options.models), *links]:
        if folder is not None and not folder.expanduser().is_dir():
            raise BringupError("no-given-folder", exit_code=2, option=name, path=folder)


def _not_of(recipe: Recipe) -> Sequence[str]:
    """Options for which this recipe has nothing."""
    modes = {mode for stage in recipe.stages for mode in stage.modes}
    has = {
        "--demo": "demo" in modes,
        "--data": "data" in modes,
        "--source": recipe.source is not None,
        "--weights": bool(recipe.weights),
        "--models": bool(recipe.checkpoints),
    }
    return [name for name, there in has.items() if not there]


def _require_a_stage(options: UpOptions, recipe: Recipe) -> None:
    """Refuse a run that nobody said the data of, or whose workload is run in its own container alone."""
    from bringup.errors import BringupError

    if not recipe.stages and recipe.image is not None:
        raise BringupError("up-in-its-image", exit_code=2, recipe=recipe.name)
    if options.demo or options.data is not None:
        return
    modes = {mode for stage in recipe.stages for mode in stage.modes}
    if not options.words or "arguments" not in modes:
        ways = {"demo": "--demo", "data": "--data FOLDER", "arguments": "-- ARGUMENTS"}
        commands = [f"bringup up {recipe.name} {way}" for mode, way in ways.items() if mode in modes]
        raise BringupError("up-on-what", exit_code=2, recipe=recipe.name, commands=" · ".join(commands))
