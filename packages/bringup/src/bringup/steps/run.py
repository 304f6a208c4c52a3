"""Running a workload's stages in its environment; finished stages are not done twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

from filelock import FileLock, Timeout

from bringup import state
from bringup.binaries.architectures import ComputeCapability
from bringup.errors import BringupError
from bringup.findings.error_texts import explain
from bringup.recipes.schema import Recipe, Stage
from bringup.steps.environments import Slot
from bringup.steps.journal import Journal
from bringup.steps.observer import Observer
from bringup.steps.processes import Outcome, run_logged
from bringup.steps.target import Target, console_command
from bringup.steps.weights import weights_folder

_WHOLE_WORD = "{arguments}"
_NOTHING_LEFT = re.compile(r"No space left on device|Errno 28")


@dataclass(frozen=True)
class Run:
    """One run of a workload.

    Attributes:
        mode: "demo", "data" or "arguments" (nothing but what stands after `--`).
        folder: where everything of this run is kept.
        data: the folder of the data that it reads (in a demo: that it makes).
        arguments: what the user wrote after `--`.
        on_gpu: whether the environment serves a GPU.
        places: further names that a stage's words may hold, beside `{run}` and `{data}`.
        here: the folder that the user's relative paths mean.
        variables: set for every stage; what a stage names itself wins.
    """

    mode: str
    folder: Path
    data: Path
    arguments: tuple[str, ...] = ()
    on_gpu: bool = False
    places: Mapping[str, str] = field(default_factory=dict)
    here: Path = field(default_factory=Path.cwd)
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StageResult:
    """How long a stage took, now or when it was done; `parts`: what it reported itself, seconds or words."""

    name: str
    seconds: float
    reused: bool
    parts: tuple[tuple[str, float | str], ...] = ()


class StageFailed(BringupError):
    """`stage-failed`, with what the end of its output is known to mean."""

    def __init__(self, stage: str, outcome: Outcome, text: str, log: Path) -> None:
        super().__init__("stage-failed", stage=stage, code=outcome.code, text=text, log=log)
        self.explanations = tuple(explain(outcome.tail.encode()))
        self.tail = outcome.tail


def demo_run(recipe: Recipe, arguments: Sequence[str], on_gpu: bool, out: Path | None = None) -> Run:
    """The run of `--demo`: data made by the workload itself."""
    folder = out.expanduser().absolute() if out else state.runs() / f"{recipe.name}-demo"
    return Run("demo", folder, folder / "data", tuple(arguments), on_gpu)


def data_run(recipe: Recipe, data: Path, arguments: Sequence[str], on_gpu: bool, out: Path | None) -> Run:
    """A run on the user's data; the same data goes on in the same folder.

    Raises:
        BringupError: `no-data` if the folder is absent or empty.
    """
    data = data.expanduser().absolute()
    if not data.is_dir():
        raise BringupError("no-data", path=data, recipe=recipe.name)
    if not any(entry for entry in data.iterdir() if not entry.name.startswith(".")):
        raise BringupError("empty-data", path=data, recipe=recipe.name)
    mark = hashlib.sha256(str(data).encode()).hexdigest()[:8]
    folder = out.expanduser().absolute() if out else state.runs() / f"{recipe.name}-{data.name}-{mark}"
    return Run("data", folder, data, tuple(arguments), on_gpu)


def arguments_run(recipe: Recipe, arguments: Sequence[str], on_gpu: bool, out: Path | None) -> Run:
    """A run that the workload's own arguments describe.

    Raises:
        BringupError: `no-arguments` if the recipe has no stage for them, or there are none.
    """
    if not arguments or not any("arguments" in stage.modes for stage in recipe.stages):
        raise BringupError("demo-or-data", exit_code=2, recipe=recipe.name)
    mark = hashlib.sha256("\0".join([str(Path.cwd()), *arguments]).encode()).hexdigest()[:8]
    folder = out.expanduser().absolute() if out else state.runs() / f"{recipe.name}-{mark}"
    return Run("arguments", folder, Path.cwd(), tuple(arguments), on_gpu)


def cuda_variables(gpus: Sequence[ComputeCapability], debug: bool) -> dict[str, str]:
    """For what a workload compiles late, the chips that the plan is for; `debug`: every kernel is waited for.

    A TORCH_CUDA_ARCH_LIST that the user has set is left as it is.
    """
    variables = {"CUDA_LAUNCH_BLOCKING": "1"} if debug else {}
    if gpus and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        variables["TORCH_CUDA_ARCH_LIST"] = ";".join(str(gpu) for gpu in gpus)
    return variables


def with_places(run: Run, slot: Slot) -> Run:
    """The run with the names of everything that its environment holds."""
    demo = str(resources.files("bringup.steps.demos"))
    places = {"source": str(slot.source), "models": str(slot.models), "weights": str(weights_folder())}
    return replace(run, places={**places, "here": str(run.here), "demo": demo, **run.places})


def stages_of(recipe: Recipe, run: Run) -> tuple[Stage, ...]:
    """The stages of this mode and device, in order."""
    device = "gpu" if run.on_gpu else "cpu"
    return tuple(
        stage
        for stage in recipe.stages
        if (not stage.modes or run.mode in stage.modes) and stage.device in ("any", device)
    )


def _fill(command: Sequence[str], run: Run) -> list[str]:
    places = {"run": str(run.folder), "data": str(run.data), **run.places}
    words: list[str] = []
    for word in command:
        if word == _WHOLE_WORD:
            words += [_argument(given, run) for given in run.arguments]
        else:
            words.append(re.sub(r"\{(\w+)\}", lambda match: places.get(match[1], match[0]), word))
    return words


def _argument(word: str, run: Run) -> str:
    """A file of the source where the user's folder has none of that name (`examples/chair.png`)."""
    in_source = Path(run.places.get("source", "/nonexistent")) / word
    found = not word.startswith("-") and not (run.here / word).exists() and in_source.exists()
    return str(in_source) if found else word


def _content_mark(folder: Path) -> str:
    """Changes when a file of the data comes, goes or is written (names, sizes, times; not contents)."""
    digest = hashlib.sha256()
    if folder.is_dir():
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                facts = file.stat()
                digest.update(f"{file.relative_to(folder)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _raise_for(stage: Stage, outcome: Outcome, log: Path) -> None:
    lines = [line.strip() for line in outcome.tail.splitlines() if line.strip()]
    tail = " ".join(lines[-3:])[-600:] or "–"
    if _NOTHING_LEFT.search(outcome.tail):
        raise BringupError("no-space", subject=stage.name, path=state.home())
    if outcome.code in (-9, 137):
        raise BringupError("stage-killed", stage=stage.name, log=log)
    raise StageFailed(stage.name, outcome, tail, log)


def _log(stage: Stage, run: Run) -> Path:
    return run.folder / "logs" / f"{stage.name}.log"


def _reported(stage: Stage, run: Run) -> tuple[tuple[str, float | str], ...]:
    """What the stage printed of itself when it was last done, from its log."""
    log = _log(stage, run)
    if stage.times is None or not log.is_file():
        return ()
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    matches = re.finditer(stage.times, "\n".join(lines[starts[-1] + 1 if starts else 0 :]))
    return tuple(_part(match.groupdict()) for match in matches)


def _part(values: Mapping[str, str | None]) -> tuple[str, float | str]:
    if values.get("text"):
        return str(values["name"]), str(values["text"])
    seconds = float(values["ms"] or 0) / 1000 if values.get("ms") else float(values["s"] or 0)
    return str(values["name"]), seconds


def _do(stage: Stage, run: Run, target: Target, observer: Observer) -> None:
    log = _log(stage, run)
    command = console_command(target, _fill(stage.command, run))
    directory = Path(_fill([stage.directory], run)[0])
    directory.mkdir(parents=True, exist_ok=True)
    named = dict(zip(stage.environment, _fill(list(stage.environment.values()), run), strict=True))
    environment = target.variables() | dict(run.variables) | named
    try:
        outcome = run_logged(
            command,
            log,
            environment=environment,
            directory=directory,
            on_line=lambda line: observer.line(stage.name, line),
        )
    except (FileNotFoundError, PermissionError) as error:
        raise BringupError("no-such-command", exit_code=2, name=command[0], text=error.strerror) from error
    if outcome.code and not stage.optional:
        _raise_for(stage, outcome, log)


def _key(stage: Stage, run: Run, slot: Slot, mark: str) -> str:
    document = [_fill(stage.command, run), slot.key, mark, dict(stage.environment)]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def run_stages(
    recipe: Recipe, run: Run, slot: Slot, observer: Observer, fresh: bool = False
) -> tuple[StageResult, ...]:
    """Do all stages that are not done; go on where a run before was broken off.

    Raises:
        StageFailed, BringupError: `stage-killed`, `run-locked`, `no-such-command`.
    """
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.folder.parent / f".{run.folder.name}.lock")
    try:
        with lock.acquire(timeout=0):
            if fresh and run.folder.exists():
                shutil.rmtree(run.folder)
            return _run_unlocked(recipe, with_places(run, slot), slot, observer)
    except Timeout as error:
        raise BringupError("run-locked", path=run.folder) from error


def _run_unlocked(recipe: Recipe, run: Run, slot: Slot, observer: Observer) -> tuple[StageResult, ...]:
    journal = Journal(run.folder / "journal.jsonl")
    # A demo makes its data: what it reads is not an input. The user's data is.
    mark = _content_mark(run.data) if run.mode == "data" else ""
    results: list[StageResult] = []
    reuse = run.mode != "arguments"  # What the user asks for by hand is done each time.
    for stage in stages_of(recipe, run):
        key = _key(stage, run, slot, mark)
        known = journal.seconds(stage.name, key) if reuse else None
        if known is None:
            reuse = False
            observer.started(stage.name)
            began = time.monotonic()
            _do(stage, run, slot.target, observer)
            seconds = time.monotonic() - began
            journal.add(stage.name, key, seconds)
        done = known if known is not None else seconds
        result = StageResult(stage.name, done, known is not None, _reported(stage, run))
        observer.finished(stage.name, result.seconds, result.reused)
        results.append(result)
    return tuple(results)
