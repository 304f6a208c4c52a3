"""`bringup up deepprep --bids IN --out OUT --license FILE`: the workload's own image, repaired, and run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bringup.recipes.schema import Recipe
    from bringup.report.progress import StepDisplay
    from bringup.report.run_report import Timed
    from bringup.steps.image.commands import Word
    from bringup.steps.image.engines import Engine
    from bringup.steps.image.participant import ParticipantRun
    from bringup.steps.image.spec import ImageSpec


@dataclass(frozen=True)
class ParticipantOptions:
    """What `up` was given. `dry_run`: show, and run nothing; `fresh`: build the image anew."""

    recipe: str
    run: ParticipantRun
    gpu: tuple[str, ...] = ()
    cpu: bool = False
    profile: str | None = None
    find_links: tuple[Path, ...] = ()
    offline: bool = False
    engine: str | None = None
    dry_run: bool = False
    fresh: bool = False
    as_json: bool = False


def run_participant(given: ParticipantOptions) -> None:
    """Check the inputs, write the image's folder, build it where it is not, run it.

    Raises:
        BringupError: what the inputs lack; `participant-not-run` where no engine answers, after the
            commands for every shell were printed; a failed build or run.
    """
    from bringup.errors import BringupError
    from bringup.recipes import load as load_recipe
    from bringup.report import console, participant
    from bringup.report.messages import say, say_error
    from bringup.steps.image.participant import (
        apptainer_steps,
        check_inputs,
        container_words,
        engine_that_runs,
        image_of,
    )

    recipe = load_recipe(given.recipe)
    image = image_of(recipe)
    subjects = check_inputs(given.run)
    spec, folder = _written(recipe, given)
    missing: BringupError | None = None
    engine: Engine | None = None
    try:
        engine = engine_that_runs(given.engine)
    except BringupError as error:
        missing = error
    gpus = bool(spec.gpus)
    name = engine.name if engine else "docker"
    words = container_words(image, spec.tag, name, given.run, gpus)
    if engine and not given.dry_run:
        terminal = console.output()
        shown = say("participant.subjects", count=len(subjects), path=given.run.bids)
        terminal.print(shown, markup=False, soft_wrap=True)
        return _build_and_run(engine, spec, folder, words, given, recipe)
    commands = [_build_words(spec, name, folder), words]
    steps = apptainer_steps(image, spec.tag, recipe.name, given.run, gpus)
    if given.as_json:
        found = engine.name if engine else None
        console.print_json(participant.document(commands, steps, folder, spec.tag, found))
    else:
        participant.print_commands(commands, steps, console.output())
    if missing is not None and not given.dry_run:
        raise BringupError("participant-not-run", why=say_error(missing), folder=folder)
    return None


def _written(recipe: Recipe, given: ParticipantOptions) -> tuple[ImageSpec, Path]:
    """The image's specification and its folder, in the state folder."""
    from bringup import state
    from bringup.binaries.architectures import ComputeCapability
    from bringup.catalog import load as load_catalog
    from bringup.cli.gpu_names import named_gpus
    from bringup.facts.gpus import usable_gpus
    from bringup.facts.machine import read_machine
    from bringup.report.image import scripts
    from bringup.steps.image.context import write_context
    from bringup.steps.image.dockerfile import dockerfile
    from bringup.steps.image.spec import ImageWishes, make_spec

    machine, catalog = read_machine(), load_catalog()
    named = named_gpus(list(given.gpu))
    here: tuple[ComputeCapability, ...] = tuple(gpu.capability for gpu in usable_gpus(machine.gpus))
    gpus = () if given.cpu else named or here
    host = machine.host
    wishes = ImageWishes(
        gpus=gpus,
        driver=machine.gpus.driver if gpus and not named else None,
        on_windows=host.system == "windows" or host.wsl is not None,
        architecture=host.architecture,
        profile=given.profile,
        find_links=tuple(folder.expanduser().absolute() for folder in given.find_links),
        offline=given.offline,
    )
    spec = make_spec(recipe, catalog, wishes)
    folder = state.home() / "images" / spec.tag.replace("/", "-").replace(":", "-")
    write_context(spec, folder, dockerfile(spec, catalog, ""), scripts(spec, "docker"))
    return spec, folder


def _build_words(spec: ImageSpec, engine: str, folder: Path) -> list[Word]:
    from bringup.steps.image.dockerfile import build_context_names
    from bringup.steps.image.engines import EngineName, build_words

    name: EngineName = "podman" if engine == "podman" else "docker"
    return [name, *build_words(name, spec.tag, str(folder), dict(build_context_names(spec)))]


def _build_and_run(
    engine: Engine,
    spec: ImageSpec,
    folder: Path,
    words: Sequence[Word],
    given: ParticipantOptions,
    recipe: Recipe,
) -> None:
    from bringup.report.console import output, remarks
    from bringup.report.explain import print_explanations
    from bringup.report.messages import say
    from bringup.report.progress import StepDisplay
    from bringup.report.run_report import Timed
    from bringup.report.tables import times_table
    from bringup.steps.image.engines import BuildFailed
    from bringup.steps.image.participant import ContainerFailed, run_container

    titles = {
        "build": say("participant.building", tag=spec.tag),
        "run": say("participant.running", recipe=recipe.name, engine=engine.name),
    }
    rows: list[Timed] = []
    with StepDisplay(output(), lambda step: titles[step]) as display:
        try:
            rows.append(_built(engine, spec, folder, given.fresh, display))
            display.started("run")
            seconds, log = run_container(
                engine, words, given.run.out, recipe.name, lambda line: display.line("run", line)
            )
            display.finished("run", seconds, False)
        except (BuildFailed, ContainerFailed) as error:
            if error.explanations:
                print_explanations(error.explanations, remarks())
            raise
    rows.append(Timed(titles["run"], seconds, False))
    terminal = output()
    terminal.print(times_table(rows))
    terminal.print(say("participant.log", path=log), markup=False, soft_wrap=True)
    terminal.print(say("participant.done", path=given.run.out), markup=False, soft_wrap=True)


def _built(engine: Engine, spec: ImageSpec, folder: Path, fresh: bool, display: StepDisplay) -> Timed:
    import time

    from bringup.report.messages import say
    from bringup.report.run_report import Timed
    from bringup.steps.image.dockerfile import build_context_names
    from bringup.steps.image.engines import build, inspect_base, pip_options, pip_secrets

    if not fresh and inspect_base(engine, spec.tag) is not None:
        return Timed(say("participant.kept", tag=spec.tag), 0.0, True)
    display.started("build")
    began = time.monotonic()
    with pip_secrets(pip_options()) as secrets:
        contexts = build_context_names(spec)
        build(engine, folder, spec.tag, contexts, secrets, lambda line: display.line("build", line))
    seconds = time.monotonic() - began
    display.finished("build", seconds, False)
    return Timed(say("participant.building", tag=spec.tag), seconds, False)
