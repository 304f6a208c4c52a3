"""How the finished image is run: its entry point or the recipe's stages, with the user's folders mounted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from bringup.recipes.schema import Stage
from bringup.steps.image.commands import Here, Rest, Word
from bringup.steps.image.engines import EngineName, gpu_words
from bringup.steps.image.spec import ImageSpec
from bringup.steps.weights import weights_folder

# Places that a stage's command names → where they are in the container.
_PLACES = {
    "data": "/data",
    "run": "/run/bringup",
    "weights": "/weights",
    "models": "/models",
    "here": "/work",
}
_NAMED = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Running:
    """One command: `name` of the stage ("" for the image's own entry point), and its words."""

    name: str
    words: tuple[Word, ...]


def _fill(words: Sequence[str], places: dict[str, str]) -> list[Word]:
    filled: list[Word] = []
    for word in words:
        if word == "{arguments}":
            filled.append(Rest())
        else:
            filled.append(_NAMED.sub(lambda match: places.get(match[1], match[0]), word))
    return filled


def _named(stage: Stage) -> list[str]:
    """The places that a stage names, in their own order."""
    texts = [*stage.command, stage.directory, *stage.environment.values()]
    named = {match[1] for text in texts for match in _NAMED.finditer(text)}
    return [name for name in _PLACES if name in named]


def _stages(spec: ImageSpec) -> list[Stage]:
    """What works on the user's data; without such stages, what takes the user's arguments."""
    device = "gpu" if spec.gpus else "cpu"
    fitting = [stage for stage in spec.recipe.stages if stage.device in ("any", device)]
    on_data = [stage for stage in fitting if not stage.modes or "data" in stage.modes]
    return on_data or [stage for stage in fitting if "arguments" in stage.modes]


def _mount(name: str, place: str) -> list[Word]:
    if name == "weights" and weights_folder().is_dir():
        return ["-v", (str(weights_folder()), f":{place}")]  # Where `bringup` has fetched them.
    # A file is mounted under its own name; a folder under the name that the recipe gives it.
    beside = "" if name == "here" else PurePosixPath(place).name if PurePosixPath(place).suffix else name
    return ["-v", (Here(beside), f":{place}")]


def run_words(spec: ImageSpec, engine: EngineName = "docker") -> list[Running]:
    """The commands that run the workload on folders below the current one."""
    runs: EngineName = (
        "podman" if engine == "buildah" else engine
    )  # buildah builds; podman runs what it built.
    head: list[Word] = [runs, "run", "--rm", *gpu_words(runs, bool(spec.gpus))]
    if spec.gpus:
        head.append("--ipc=host")  # torch's workers share tensors through it; 64 MB would not do.
    image = spec.recipe.image
    if image and image.command and spec.base == image.reference:
        mounts = [word for name, place in image.mounts.items() for word in _mount(name, place)]
        return [Running("", (*head, *mounts, spec.tag, *_fill(image.command, dict(image.mounts))))]
    places = _PLACES | {"source": spec.source}
    commands = []
    for stage in _stages(spec):
        mounts = [word for name in _named(stage) for word in _mount(name, _PLACES[name])]
        variables = _fill([f"{name}={value}" for name, value in stage.environment.items()], places)
        settings = [word for variable in variables for word in ("-e", variable)]
        place = _fill([stage.directory], places)
        words = (*head, *mounts, *settings, "-w", *place, spec.tag, *_fill(stage.command, places))
        commands.append(Running(stage.name, words))
    return commands
