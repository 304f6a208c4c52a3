"""`bringup build SRC…`: CUDA extensions for the GPUs here or named, within the memory that is here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bringup.errors import BringupError
    from bringup.facts.environment import EnvironmentFacts
    from bringup.steps.building.build import BuildRequest, BuildResult


def command(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Source folders or archives.")],
    env: Annotated[
        Path | None, typer.Option(help="The environment whose torch and Python it is for.")
    ] = None,
    arch: Annotated[str | None, typer.Option(help='As TORCH_CUDA_ARCH_LIST: "8.6;12.0+PTX", sm_120.')] = None,
    gpu: Annotated[list[str] | None, typer.Option(help='A GPU to build for: "RTX 5090"; may repeat.')] = None,
    jobs: Annotated[int | None, typer.Option(help="Compilers at once (else by cores and memory).")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the wheels go.")] = Path(),
    toolkit: Annotated[str | None, typer.Option(help="wheels, system, or a CUDA folder.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Build even what the cache has.")] = False,
    find_links: Annotated[list[Path] | None, typer.Option(help="A folder of wheels to use as well.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use no package index.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Build a wheel of each source; it counts only once it was read back and imported.

    Exit 0: all built. 1: one was not. 2: wrong usage.
    """
    from bringup.errors import BringupError
    from bringup.facts.gpus import read_gpus
    from bringup.report import build as report
    from bringup.report import console
    from bringup.steps.building.architectures import choose_architectures
    from bringup.steps.building.build import BuildRequest
    from bringup.steps.toolkit.pip import Source

    if jobs is not None and jobs < 1:
        raise BringupError("build-jobs", exit_code=2, given=jobs)
    survey = read_gpus()
    request = BuildRequest(
        environment=_environment(env),
        wanted=choose_architectures(arch, gpu or [], survey),
        driver=survey.driver if not gpu and arch is None else None,
        jobs=jobs,
        where=toolkit,
        source=Source(tuple(find_links or ()), offline),
        fresh=fresh,
        output=output.expanduser().absolute(),
    )
    if not as_json:
        console.remarks().print(report.purpose(request.wanted, request.environment.root), markup=False)
    results: list[BuildResult | tuple[str, BringupError]] = []
    for source in sources:
        result = _build(source, request, as_json)
        results.append(result)
        if not as_json and isinstance(result, tuple):
            report.print_failure(result, console.remarks())
        elif not as_json and not isinstance(result, tuple):
            report.print_result(result, console.output())
    if as_json:
        console.print_json(report.document(results, request.environment.root))
    failures = [row[1] for row in results if isinstance(row, tuple)]
    raise typer.Exit(max((error.exit_code for error in failures), default=0))


def _environment(env: Path | None) -> EnvironmentFacts:
    """The named environment, the active one, or that of the `python3` on PATH."""
    from bringup.errors import BringupError
    from bringup.facts.environment import read_environment
    from bringup.facts.interpreters import ask

    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    found = env or (Path(active) if active and Path(active).is_dir() else None)
    if found is None:
        # Asked, because what PATH has may be a script (pyenv) in front of the interpreter.
        on_path = shutil.which("python3") or shutil.which("python")
        interpreter = ask(on_path) if on_path else None
        found = Path(interpreter.path) if interpreter else None
    if found is None:
        raise BringupError("no-build-environment", exit_code=2)
    return read_environment(found.expanduser(), scan=False)


def _build(source: Path, request: BuildRequest, quiet: bool) -> BuildResult | tuple[str, BringupError]:
    from bringup.errors import BringupError
    from bringup.report import console
    from bringup.report.build import line_text, step_title
    from bringup.report.progress import StepDisplay
    from bringup.steps.building.build import build
    from bringup.steps.observer import Silent

    try:
        if quiet:
            return build(source, request, Silent())
        with StepDisplay(console.remarks(), step_title, line_text) as display:
            return build(source, request, display)
    except BringupError as error:
        return str(source), error
