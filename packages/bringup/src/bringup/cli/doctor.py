"""`bringup doctor`: facts and findings, before anything is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bringup.cli import options

if TYPE_CHECKING:
    from bringup.facts.environment import EnvironmentFacts
    from bringup.facts.machine import MachineFacts
    from bringup.facts.project import ProjectFacts
    from bringup.findings.model import Examined, NamedGpu
    from bringup.report.doctor_document import Diagnosis
    from bringup.report.scan import ScanProgress


def command(
    env: Annotated[Path | None, typer.Option(help="An environment's folder or its Python.")] = None,
    image: Annotated[Path | None, typer.Option(help="A container image archive (docker save).")] = None,
    project: Annotated[Path | None, typer.Option(help="A project folder.")] = None,
    gpu: Annotated[list[str] | None, typer.Option(help='Judge for this GPU: "RTX 5090", sm_120.')] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write one HTML page.")] = None,
    share: Annotated[Path | None, typer.Option(help="Write a redacted bundle for a bug report.")] = None,
) -> None:
    """Say what will fail on which GPU and why; nothing of the environment is run or imported.

    Exit 0: healthy. 1: a finding of severity error. 2: wrong usage. 3: something could not be read (it is
    listed), and no error was found in the rest.
    """
    from bringup.errors import BringupError
    from bringup.facts.environment import read_environment
    from bringup.facts.machine import read_machine
    from bringup.facts.project import read_project
    from bringup.report.scan import ScanProgress

    if env is not None and image is not None:
        raise BringupError("env-or-image", exit_code=2)
    for file, option in ((html, "--html"), (share, "--share")):
        if file is not None:
            options.require_writable(file, option)
    gpus = _named(gpu or [])
    read = read_project(project.expanduser().absolute()) if project else None
    machine = read_machine(interpreters=env is None and image is None and project is None)
    with ScanProgress() as progress:
        if image is not None:
            diagnoses, unread = _diagnose_image(image, machine, read, gpus, progress)
        else:
            place = env if env is not None else _active_environment(project)
            environment = read_environment(place, on_file=progress.on_file) if place else None
            diagnoses, unread = [_diagnose(machine, environment, read, gpus)], False
    _tell(diagnoses, machine, as_json, html, share)
    if any(finding.severity == "error" for row in diagnoses for finding in row.findings):
        raise typer.Exit(1)
    raise typer.Exit(3 if unread or (read and read.unreadable) else 0)


def _active_environment(project: Path | None) -> Path | None:
    """The activated environment, if there is one; a project alone is judged by its own files."""
    import os

    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    return Path(active) if active and project is None and Path(active).is_dir() else None


def _named(names: list[str]) -> tuple[NamedGpu, ...]:
    """The GPUs that the user names, each once however it is spelled."""
    from bringup.cli.gpu_names import find_gpus
    from bringup.findings.model import NamedGpu

    return tuple(NamedGpu(name, capability) for name, capability in find_gpus(names))


def _diagnose(
    machine: MachineFacts,
    environment: EnvironmentFacts | None,
    project: ProjectFacts | None,
    gpus: tuple[NamedGpu, ...],
    here: bool = True,
) -> Diagnosis:
    """Examine one environment, a project, or the machine. `here`: it would compile on this machine."""
    from bringup.catalog import load
    from bringup.facts.gpus import usable_gpus
    from bringup.facts.toolchains import find_host_compilers, find_toolkits
    from bringup.findings.model import Examined, NamedGpu
    from bringup.findings.rules import find
    from bringup.report.doctor_document import Diagnosis

    present = dict.fromkeys(NamedGpu(row.name, row.capability) for row in usable_gpus(machine.gpus))
    compiles = here and project is not None and bool(project.compiling)
    root = Path(environment.root) if environment else None
    sites = map(Path, environment.site_packages) if environment else ()
    examined = Examined(
        catalog=load(),
        machine=machine,
        gpus=gpus or tuple(present),
        driver=machine.gpus.driver if not gpus else None,
        windows_driver=machine.host.system == "windows" or machine.host.wsl is not None,
        environment=environment,
        project=project,
        toolkits=find_toolkits(root, sites) if compiles else None,
        compilers=find_host_compilers() if compiles else None,
    )
    return Diagnosis(examined, tuple(find(examined)))


def _diagnose_image(
    image: Path,
    machine: MachineFacts,
    project: ProjectFacts | None,
    gpus: tuple[NamedGpu, ...],
    progress: ScanProgress,
) -> tuple[list[Diagnosis], bool]:
    """(every Python environment of an archive, whether something of it could not be read)."""
    from bringup.errors import BringupError
    from bringup.facts.image import inside_image, opened_image
    from bringup.report.doctor_document import Diagnosis

    with opened_image(image, on_file=progress.on_file) as contents:
        if not contents.environments:
            raise BringupError("image-without-python", exit_code=3, path=image)
        diagnoses = [
            _diagnose(machine, environment, project, gpus, here=False)
            for environment in contents.environments
        ]
        shown = [
            Diagnosis(_inside(row.examined, contents.root), inside_image(row.findings, contents.root))
            for row in diagnoses
        ]
        return shown, bool(contents.unreadable)


def _inside(examined: Examined, root: str) -> Examined:
    """The same with the environment's paths as the image has them."""
    from dataclasses import replace

    from bringup.facts.image import inside_image

    return replace(examined, environment=inside_image(examined.environment, root))


def _tell(
    diagnoses: list[Diagnosis], machine: MachineFacts, as_json: bool, html: Path | None, share: Path | None
) -> None:
    from bringup import state
    from bringup.report import console, doctor
    from bringup.report.doctor_document import doctor_document
    from bringup.report.messages import say
    from bringup.report.share import redacted

    document = doctor_document(diagnoses)
    if html is not None:
        state.write_atomically(html, doctor.page(diagnoses, machine))
        console.remarks().print(say("doctor.written", path=html), markup=False)
    if share is not None:
        state.write_atomically(share, redacted(document))
        console.remarks().print(say("doctor.written", path=share), markup=False)
    if as_json:
        console.print_json(document)
    elif html is None and share is None:
        doctor.print_report(diagnoses, console.output(), machine)
