"""`bringup doctor`: facts and findings, before anything is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bringup.facts.environment import EnvironmentFacts
    from bringup.facts.machine import MachineFacts
    from bringup.findings import Examined, Finding, NamedGpu


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

    Exit 0: healthy. 1: a finding of severity error. 2: wrong usage. 3: could not finish looking.
    """
    from bringup.errors import BringupError
    from bringup.facts.environment import read_environment
    from bringup.facts.image import opened_image
    from bringup.facts.machine import read_machine

    if env is not None and image is not None:
        raise BringupError("env-or-image", exit_code=2)
    machine = read_machine()
    if image is None:
        environment = read_environment(env) if env is not None else _active_environment(project)
        examined, findings = _examine(machine, environment, project, gpu or [], remote=False)
        _tell(examined, findings, machine, as_json, html, share)
    else:
        with opened_image(image) as contents:
            if not contents.environments:
                raise BringupError("image-without-python", exit_code=3, path=image)
            examined, findings = _examine(machine, contents.environments[0], project, gpu or [], remote=True)
            _tell(examined, findings, machine, as_json, html, share)
    raise typer.Exit(1 if any(finding.severity == "error" for finding in findings) else 0)


def _active_environment(project: Path | None) -> EnvironmentFacts | None:
    """The activated environment, if there is one; a project alone is judged by its own files."""
    import os

    from bringup.facts.environment import read_environment

    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    return read_environment(Path(active)) if active and project is None and Path(active).is_dir() else None


def _named(names: list[str]) -> tuple[NamedGpu, ...]:
    from bringup.catalog import load
    from bringup.findings import NamedGpu

    rows = (load().find_gpu(name) for name in names)
    return tuple(NamedGpu(name, capability) for name, capability in rows)


def _examine(
    machine: MachineFacts,
    environment: EnvironmentFacts | None,
    project: Path | None,
    names: list[str],
    remote: bool,
) -> tuple[Examined, list[Finding]]:
    from bringup.catalog import load
    from bringup.facts.gpus import usable_gpus
    from bringup.facts.project import read_project
    from bringup.findings import Examined, NamedGpu, find

    here = tuple(NamedGpu(gpu.name, gpu.capability) for gpu in usable_gpus(machine.gpus))
    examined = Examined(
        catalog=load(),
        machine=machine,
        gpus=_named(names) or tuple({gpu.name: gpu for gpu in here}.values()),
        driver=machine.gpus.driver if not names else None,
        windows_driver=machine.host.system == "windows" or machine.host.wsl is not None,
        environment=environment,
        project=read_project(project.expanduser().absolute()) if project else None,
    )
    return examined, find(examined)


def _tell(
    examined: Examined,
    findings: list[Finding],
    machine: MachineFacts,
    as_json: bool,
    html: Path | None,
    share: Path | None,
) -> None:
    from bringup import state
    from bringup.report import console, doctor
    from bringup.report.messages import say
    from bringup.report.share import redacted

    document = doctor.document(examined, findings)
    if html is not None:
        state.write_atomically(html, doctor.page(examined, findings, machine))
        console.remarks().print(say("doctor.written", path=html), markup=False)
    if share is not None:
        state.write_atomically(share, redacted(document))
        console.remarks().print(say("doctor.written", path=share), markup=False)
    if as_json:
        console.print_json(document)
    elif html is None and share is None:
        doctor.print_report(examined, findings, console.output(), machine)
