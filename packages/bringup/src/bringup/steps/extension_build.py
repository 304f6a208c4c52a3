"""One extension of a plan: its source brought and patched, built for the plan's GPUs, proved, installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bringup.facts.environment import read_environment
from bringup.facts.gpus import read_gpus
from bringup.plan.steps import BuildExtension
from bringup.steps.building.architectures import choose_architectures
from bringup.steps.building.build import BuildRequest, build
from bringup.steps.installers import Installer
from bringup.steps.patches import patch_source
from bringup.steps.sources import Supplies, fetch_source
from bringup.steps.target import Target
from bringup.steps.toolkit.pip import Source


class _Lines:
    """Shows the inner steps of a build as lines of the plan's one step."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line

    def started(self, step: str) -> None:
        self._on_line(step)

    def line(self, step: str, text: str) -> None:
        self._on_line(text)

    def finished(self, step: str, seconds: float, reused: bool) -> None:
        pass


def build_extension(
    step: BuildExtension,
    target: Target,
    folder: Path,
    workload: Path,
    installer: Installer,
    supplies: Supplies,
    find_links: Sequence[Path],
    versions: Mapping[str, str | None],
    log: Path,
    on_line: Callable[[str], None],
) -> None:
    """Build and install into `target`; what was built before with the same inputs is taken.

    Args:
        folder: for the extension's source and wheel. `workload`: the workload's own source.

    Raises:
        BringupError: what fetching, patching and building raise; the log of the build is kept.
    """
    source = workload / step.folder
    if step.source is not None:
        source = folder / step.distribution
        fetch_source(step.source, source, supplies, log, on_line)
    for patch in step.patches:
        patch_source(patch, source, versions)
    request = BuildRequest(
        environment=read_environment(target.root, scan=False),
        wanted=choose_architectures(None, step.architectures, read_gpus()),
        driver=None,
        jobs=None,
        where=None,
        source=Source(tuple(find_links), supplies.offline),
        fresh=False,
        output=folder / "wheels",
        variables=dict(step.environment),
    )
    result = build(source / step.subfolder, request, _Lines(on_line))
    installer.install_path(target, result.product, log, on_line)
