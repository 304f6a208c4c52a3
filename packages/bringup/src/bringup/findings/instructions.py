"""A rule about what a project tells people to type: commands that bring a torch without code for the chip."""

from __future__ import annotations

from collections.abc import Iterator

from bringup.catalog.schema import TorchBuild
from bringup.facts.instructions import InstallCommand
from bringup.findings.cuda_choices import failing, nearest_to_origin
from bringup.findings.model import Evidence, Examined, Finding, NamedGpu
from bringup.findings.projects import is_served, nearest_to_pin, serving_builds
from bringup.findings.repairs import torch_build_fix


def instructions_without_the_chip(examined: Examined) -> Iterator[Finding]:
    """All that a README, a page on installing and setup scripts say brings a torch without the chip.

    One way that serves it is enough, as pages name one for each CUDA. A warning: only people read them.
    """
    commands = examined.project.instructions if examined.project else ()
    for gpu in examined.gpus:
        serving = serving_builds(examined, gpu)
        nearest = [_mended(examined, command, gpu, serving) for command in commands if serving]
        if nearest and None not in nearest:
            # The command that names torch itself, not one of the extensions that are built for it.
            first = next((row for row, command in enumerate(commands) if command.pins), 0)
            build = nearest[first]
            assert build is not None
            yield _finding(examined, commands[first], gpu, build)


def _mended(
    examined: Examined, command: InstallCommand, gpu: NamedGpu, serving: list[TorchBuild]
) -> TorchBuild | None:
    """The nearest build with code for the GPU; None if what the command brings has it, or may have it."""
    for pin in command.pins:
        if not is_served(examined.catalog, pin.requirement.specifier, serving):
            return nearest_to_pin(examined.catalog, pin.requirement.specifier, serving)
    if command.origins and (bad := failing(examined, command.origins, command.pins, gpu)):
        return nearest_to_origin(examined, bad[0], command.pins, serving)
    return None


def _finding(examined: Examined, command: InstallCommand, gpu: NamedGpu, nearest: TorchBuild) -> Finding:
    sm, place, name = (
        gpu.capability.sm,
        f"{command.file}:{command.line}",
        f"{nearest.version}+{nearest.local}",
    )
    evidence = (
        Evidence(command.file, f"line {command.line}", command.text),
        Evidence("catalog", sm, f"nearest torch with code for it: {name}"),
    )
    error = f"{gpu.name} with CUDA capability {sm} is not compatible with the current PyTorch"
    parameters = {"place": place, "gpu": gpu.name, "sm": sm, "nearest": name}
    fix = torch_build_fix(examined, nearest, gpu)
    return Finding("instructions-without-this-chip", "warning", place, evidence, error, fix, parameters)
