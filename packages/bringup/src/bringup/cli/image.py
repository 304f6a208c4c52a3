"""`bringup image RECIPE`: one multi-stage Dockerfile with its context, its size and the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bringup.cli.options import SourceFolder

if TYPE_CHECKING:
    from bringup.binaries.architectures import ComputeCapability
    from bringup.facts.machine import MachineFacts
    from bringup.recipes.schema import Recipe
    from bringup.steps.image.engines import Engine
    from bringup.steps.image.spec import ImageSpec, ImageWishes


def command(
    recipe: Annotated[str, typer.Argument(help="A built-in recipe's name, or a recipe file.")],
    gpu: Annotated[list[str] | None, typer.Option(help="For this GPU instead of those here.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="For the CPU although a GPU is here.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder to write (RECIPE-image).")
    ] = None,
    build: Annotated[bool, typer.Option("--build", help="Build it, too.")] = False,
    engine: Annotated[str | None, typer.Option(help="docker, podman or buildah.")] = None,
    profile: Annotated[str | None, typer.Option(help="A profile of the recipe.")] = None,
    base: Annotated[str | None, typer.Option(help="Another base image.")] = None,
    python: Annotated[str | None, typer.Option(help="The base's interpreter (a path in the image).")] = None,
    python_version: Annotated[str | None, typer.Option(help="Version of the base's Python.")] = None,
    keep_torch: Annotated[bool, typer.Option("--keep-torch", help="Use the base's own torch.")] = False,
    source: SourceFolder = None,
    find_links: Annotated[list[Path] | None, typer.Option(help="A folder of wheels to use as well.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Install from --find-links alone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Write one Dockerfile whose last stage copies only what changed; nothing is built without --build."""
    from bringup.catalog import load as load_catalog
    from bringup.cli.gpu_names import named_gpus
    from bringup.facts.machine import read_machine
    from bringup.recipes import load as load_recipe
    from bringup.report import console
    from bringup.report import image as report
    from bringup.report.waiting import Waiting
    from bringup.steps.image.context import write_context
    from bringup.steps.image.dockerfile import dockerfile
    from bringup.steps.image.engines import inspect_base
    from bringup.steps.image.sizes import layers
    from bringup.steps.image.spec import ImageWishes, make_spec

    chosen, catalog = load_recipe(recipe), load_catalog()
    named = named_gpus(gpu or [])
    tool = _engine(engine, build)
    machine = read_machine()
    wishes = ImageWishes(
        profile=profile,
        base=base,
        python=python,
        python_version=python_version,
        keep_torch=keep_torch,
        find_links=tuple(folder.expanduser().absolute() for folder in find_links or ()),
        offline=offline,
        source=source.expanduser().absolute() if source else None,
    )
    spec = make_spec(chosen, catalog, _for_gpus(wishes, named, cpu, machine, chosen))
    folder = output or Path(f"{chosen.name}-image")
    known = inspect_base(tool, spec.base) if tool else None
    text = dockerfile(spec, catalog, known.user if known else "")
    # Commands are for the engine that people run: buildah only where it was asked for.
    name = tool.name if tool and (engine or build or tool.name != "buildah") else "docker"
    files = write_context(spec, folder, text, report.scripts(spec, name))
    with Waiting("image.asking"):
        rows = layers(spec, machine.interpreters, known.size if known else None)
    log = _build(tool, spec, folder) if build and tool else None
    if as_json:
        console.print_json(report.document(spec, rows, name, folder, files, log))
    else:
        report.print_image(spec, rows, name, folder, log, console.output())


def _for_gpus(
    wishes: ImageWishes,
    named: tuple[ComputeCapability, ...],
    cpu: bool,
    machine: MachineFacts,
    recipe: Recipe,
) -> ImageWishes:
    """The chips named, else those here; the driver counts only where the image will run here."""
    from dataclasses import replace

    from bringup.facts.gpus import usable_gpus

    here = tuple(gpu.capability for gpu in usable_gpus(machine.gpus))
    gpus = () if cpu or recipe.needs.gpu == "none" else named or here
    host = machine.host
    return replace(
        wishes,
        gpus=gpus,
        driver=machine.gpus.driver if gpus and not named else None,
        on_windows=host.system == "windows" or host.wsl is not None,
        architecture=host.architecture,
    )


def _engine(wish: str | None, needed: bool) -> Engine | None:
    """The engine; without --build, one that is absent is no fault."""
    from bringup.errors import BringupError
    from bringup.steps.image.engines import find_engine

    try:
        return find_engine(wish)
    except BringupError as error:
        if needed or error.id == "unknown-engine":
            raise
        return None


def _build(engine: Engine, spec: ImageSpec, folder: Path) -> Path:
    from bringup.report import console
    from bringup.report import image as report
    from bringup.report.messages import say
    from bringup.report.progress import StepDisplay
    from bringup.steps.image.dockerfile import build_context_names
    from bringup.steps.image.engines import BuildFailed, build, pip_options, pip_secrets, progress_line

    remarks = console.remarks()
    title = say("image.building", tag=spec.tag, engine=engine.name)
    try:
        with (
            StepDisplay(remarks, lambda _: title, progress_line) as display,
            pip_secrets(pip_options()) as secrets,
        ):
            display.started("image")
            contexts = build_context_names(spec)
            return build(
                engine, folder, spec.tag, contexts, secrets, lambda line: display.line("image", line)
            )
    except BuildFailed as error:
        report.print_failure(error, remarks)
        raise
