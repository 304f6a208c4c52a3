"""How the finished image is run: the recipe's stages, with the folders of the data and the run mounted."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bringup.steps.image.commands import Here, Word
from bringup.steps.image.engines import EngineName, gpu_words
from bringup.steps.image.spec import ImageSpec

_DATA, _RUN = "/data", "/run/bringup"


@dataclass(frozen=True)
class Running:
    """One command: `name` of the stage, its words from the engine's name on."""

    name: str
    words: tuple[Word, ...]


def _fill(word: str, places: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: places.get(match[1], match[0]), word)


def _mounts(spec: ImageSpec) -> dict[str, str]:
    """Folder or file beside the user → place in the container."""
    image = spec.recipe.image
    if image and image.mounts and spec.base == image.reference:
        return dict(image.mounts)
    return {"data": _DATA, "run": _RUN}


def run_words(spec: ImageSpec, engine: EngineName = "docker") -> list[Running]:
    """The commands that run the workload; data and run (or the recipe's mounts) lie in the current folder."""
    mounts = _mounts(spec)
    runs: EngineName = (
        "podman" if engine == "buildah" else engine
    )  # buildah builds; podman runs what it built.
    head: list[Word] = [runs, "run", "--rm", *gpu_words(runs, bool(spec.gpus))]
    if spec.gpus:
        head += ["--ipc=host"]  # torch's workers share tensors through it; 64 MB would not do.
    for name, place in mounts.items():
        head += ["-v", (Here(name), f":{place}")]
    places = {"source": spec.source, "data": _DATA, "run": _RUN} | mounts
    device = "gpu" if spec.gpus else "cpu"
    commands = []
    for stage in spec.recipe.stages:
        if (stage.modes and "data" not in stage.modes) or stage.device not in ("any", device):
            continue
        words = [_fill(word, places) for word in stage.command if word != "{arguments}"]
        settings = [word for item in stage.environment.items() for word in ("-e", "=".join(item))]
        place = _fill(stage.directory, places)
        commands.append(Running(stage.name, (*head, *settings, "-w", place, spec.tag, *words)))
    return commands
