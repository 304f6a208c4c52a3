"""A workload that lives in its own image (DeepPrep): folders in and out, a licence, one container run.

The words follow the BIDS-App convention (`INPUT OUTPUT participant OPTIONS`), as the recipe's `command` of
`[image]` writes them.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from bringup import state
from bringup.errors import BringupError
from bringup.findings.error_texts import Explanation, explain
from bringup.recipes.schema import Image, Recipe
from bringup.steps.image.commands import Here, Part, Word
from bringup.steps.image.engines import Engine, EngineName, find_engine, gpu_words, variables
from bringup.steps.processes import run_logged

_TASKS = "--bold_task_type"
_DEVICE = "--device"
_LICENCE_LINES = 3  # FreeSurfer's: an address, a number, a key or more
_DEVICES = re.compile(r"auto|cpu|\d+")
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")


@dataclass(frozen=True)
class ParticipantRun:
    """What the user asks for.

    Attributes:
        bids, out, licence: as given (relative ones stay so in printed commands).
        device: "0", "auto" or "cpu", as the workload takes it; None: the recipe's.
        task: of the BOLD runs; None: the recipe's.
        extra: what stood after `--`.
    """

    bids: Path
    out: Path
    licence: Path
    device: str | None = None
    task: str | None = None
    resume: bool = False
    extra: tuple[str, ...] = ()


class ContainerFailed(BringupError):
    """`participant-failed`, with what its log is known to mean."""

    def __init__(self, explanations: Sequence[Explanation], code: int, log: Path) -> None:
        super().__init__("participant-failed", code=code, log=log)
        self.explanations = tuple(explanations)


def image_of(recipe: Recipe) -> Image:
    """The recipe's own image.

    Raises:
        BringupError: `participant-no-image`.
    """
    if recipe.image is None or not recipe.image.command:
        raise BringupError("participant-no-image", exit_code=2, recipe=recipe.name)
    return recipe.image


def check_inputs(run: ParticipantRun) -> tuple[str, ...]:
    """Names of the subjects; everything that would fail after an hour is refused now.

    Raises:
        BringupError: `no-bids`, `bids-no-subjects`, `no-licence-file`, `licence-file-short`,
            `output-no-folder`, `output-in-input`, `no-such-device`.
    """
    bids, out, licence = (path.expanduser().absolute() for path in (run.bids, run.out, run.licence))
    if not bids.is_dir():
        raise BringupError("no-bids", exit_code=2, path=bids)
    subjects = sorted(
        entry.name for entry in bids.iterdir() if entry.is_dir() and _SUBJECT.fullmatch(entry.name)
    )
    if not subjects:
        raise BringupError("bids-no-subjects", exit_code=2, path=bids)
    if not licence.is_file():
        raise BringupError("no-licence-file", exit_code=2, path=licence)
    lines = [line for line in licence.read_text(errors="replace").splitlines() if line.strip()]
    if len(lines) < _LICENCE_LINES:
        raise BringupError("licence-file-short", exit_code=2, path=licence, count=len(lines))
    if out.exists() and not out.is_dir():
        raise BringupError("output-no-folder", exit_code=2, path=out)
    if bids.resolve() in (out.resolve(), *out.resolve().parents):
        raise BringupError("output-in-input", exit_code=2, path=out, bids=bids)
    if run.device is not None and not _DEVICES.fullmatch(run.device):
        raise BringupError("no-such-device", exit_code=2, given=run.device)
    return tuple(subjects)


def _place(path: Path) -> Part:
    """A path as it is typed: from the current folder if it was given so."""
    given = path.expanduser()
    return str(given) if given.is_absolute() else Here(str(PurePath(given)))


def _set(words: list[str], option: str, value: str | None) -> None:
    if value is not None and option in words:
        words[words.index(option) + 1] = value
    elif value is not None:
        words += [option, value]


def _inside(image: Image, run: ParticipantRun, gpus: bool) -> list[Word]:
    """What the image's entry point is given; without a GPU, `cpu` unless the user says otherwise."""
    words = [word for word in image.command if word != "{arguments}"]
    _set(words, _TASKS, run.task)
    _set(words, _DEVICE, run.device or (None if gpus else "cpu"))
    filled = [re.sub(r"\{(\w+)\}", lambda m: image.mounts.get(m[1], m[0]), word) for word in words]
    return [*filled, *(["--resume"] if run.resume else []), *run.extra]


def _mounts(image: Image, run: ParticipantRun) -> list[tuple[Part, str]]:
    """(what, where): the input and the licence can only be read in the container."""
    given = {"input": (run.bids, ":ro"), "output": (run.out, ""), "licence": (run.licence, ":ro")}
    return [
        (_place(given[name][0]), f":{place}{given[name][1]}")
        for name, place in image.mounts.items()
        if name in given
    ]


def container_words(
    image: Image, tag: str, engine: EngineName, run: ParticipantRun, gpus: bool
) -> list[Word]:
    """`docker run …` or `podman run …`, word by word."""
    with_gpu = gpus and run.device != "cpu"
    words: list[Word] = [engine, "run", "--rm", *gpu_words(engine, with_gpu)]
    if with_gpu:
        words.append("--ipc=host")  # torch's workers share tensors through it; 64 MB would not do.
    for place in _mounts(image, run):
        words += ["-v", place]
    return [*words, tag, *_inside(image, run, gpus)]


def apptainer_words(image: Image, sif: str, run: ParticipantRun, gpus: bool) -> list[Word]:
    """`apptainer run …` of an image file that was made from the container image."""
    words: list[Word] = ["apptainer", "run", "--cleanenv"]
    if gpus and run.device != "cpu":
        words.append("--nv")
    for place in _mounts(image, run):
        words += ["-B", place]
    return [*words, sif, *_inside(image, run, gpus)]


def apptainer_steps(image: Image, tag: str, name: str, run: ParticipantRun, gpus: bool) -> list[list[Word]]:
    """From the image on a machine with Docker to a run where there is Apptainer alone."""
    return [
        ["docker", "save", tag, "-o", f"{name}.tar"],
        ["apptainer", "build", f"{name}.sif", f"docker-archive:{name}.tar"],
        apptainer_words(image, f"{name}.sif", run, gpus),
    ]


def engine_that_runs(wish: str | None) -> Engine:
    """docker or podman, whichever answers; buildah can only build.

    Raises:
        BringupError: as `find_engine` for the one that was asked for; `no-engine`.
    """
    if wish is not None:
        return find_engine(wish)
    failure: BringupError | None = None
    for name in ("docker", "podman"):
        if shutil.which(name):
            try:
                return find_engine(name)
            except BringupError as error:
                failure = failure or error
    raise failure or BringupError("no-engine", known="docker, podman")


def _typed(word: Word) -> str:
    """A word for a process: `Here` is the current folder."""
    if isinstance(word, str):
        return word
    assert isinstance(word, tuple)
    return "".join(str(Path.cwd() / part.path) if isinstance(part, Here) else str(part) for part in word)


def run_container(
    engine: Engine, words: Sequence[Word], out: Path, name: str, on_line: Callable[[str], None]
) -> tuple[float, Path]:
    """Run it; returns the seconds that it took and its log.

    Raises:
        ContainerFailed: with the explanations of what stands in the log.
    """
    out.expanduser().mkdir(parents=True, exist_ok=True)
    log = state.runs() / name / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}.log"
    program = [engine.program, *engine.options, *(_typed(word) for word in words[1:])]
    began = time.monotonic()
    outcome = run_logged(program, log, environment=variables(engine) | {"LC_ALL": "C.UTF-8"}, on_line=on_line)
    if outcome.code:
        raise ContainerFailed(explain(log.read_bytes()), outcome.code, log)
    return time.monotonic() - began, log
