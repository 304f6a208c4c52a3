"""`bringup wsl`: how much of the Windows host WSL2 may use, and the file that says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bringup.facts.host import HostFacts
    from bringup.steps.wsl.host import WindowsFacts
    from bringup.steps.wsl.settings import Advice, WindowsHost


def command(
    write: Annotated[bool, typer.Option("--write", help="Write the file after showing the change.")] = False,
    memory: Annotated[str | None, typer.Option(help="Memory for WSL2, for example 50GB.")] = None,
    processors: Annotated[int | None, typer.Option(help="Logical processors for WSL2.")] = None,
    swap: Annotated[str | None, typer.Option(help="Swap for WSL2, for example 20GB.")] = None,
    file: Annotated[Path | None, typer.Option(help="Another .wslconfig than this user's.")] = None,
    host_memory: Annotated[
        str | None, typer.Option(help="Windows' memory, instead of asking (with --host-processors, --file).")
    ] = None,
    host_processors: Annotated[int | None, typer.Option(help="Windows' logical processors.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Measure, advise, show the change; written only with --write. Other keys and comments stay."""
    from dataclasses import replace

    from bringup.facts.host import read_host
    from bringup.report import console
    from bringup.report import wsl as report
    from bringup.steps.wsl.file import difference, read_configuration, write_configuration
    from bringup.steps.wsl.settings import needed, read_settings, with_settings

    facts = read_host()
    windows = _windows(facts, file, host_memory, host_processors)
    advice, forced = _advice(windows.host, memory, processors, swap)
    before = read_configuration(file or windows.file)
    current = read_settings(before.text)
    changes = needed(advice, current, windows.host)
    wanted = advice.settings()
    changes |= {key: wanted[key] for key in forced if current.get(key) != wanted[key]}
    after = with_settings(before.text, changes) if changes else before.text
    shown = report.WslReport(
        host=windows.host,
        guest=facts if facts.wsl == "2" else None,
        file=before.path,
        current=current,
        advice=advice,
        changes=changes,
        diff=difference(before, after),
        written=False,
        kept=None,
    )
    if not as_json:
        report.print_report(shown, console.output())  # The change is seen before it is made.
    if write and changes:
        shown = replace(shown, kept=write_configuration(before, after), written=True)
    if as_json:
        console.print_json(report.document(shown))
    else:
        report.print_outcome(shown, console.output())


def _windows(facts: HostFacts, file: Path | None, memory: str | None, processors: int | None) -> WindowsFacts:
    """What was named on the command line, else Windows' own answer."""
    from bringup.errors import BringupError
    from bringup.steps.wsl.host import WindowsFacts, read_windows
    from bringup.steps.wsl.settings import GB, WindowsHost, parse_size

    if memory is None and processors is None:
        return read_windows(facts)
    size = parse_size(memory or "")
    if file is None or not size or size < 2 * GB or not processors or processors < 1:
        raise BringupError("wsl-host-options", exit_code=2)
    return WindowsFacts(WindowsHost(size, processors), "", file)


def _advice(
    host: WindowsHost, memory: str | None, processors: int | None, swap: str | None
) -> tuple[Advice, list[str]]:
    """The derived advice with what the user names in its place, and the keys so named."""
    from bringup.errors import BringupError
    from bringup.steps.wsl.settings import GB, Advice, derive, parse_size

    derived = derive(host)
    sizes = {}
    for name, text, least in (("memory", memory, 1), ("swap", swap, 0)):
        size = parse_size(text) if text is not None else None
        if text is not None and (
            size is None or size < least * GB or (name == "memory" and size > host.memory)
        ):
            most = f"{host.memory // GB}GB" if name == "memory" else "–"
            raise BringupError("wsl-size", exit_code=2, option=f"--{name}", given=text, most=most)
        if size is not None:
            sizes[name] = size // GB
    if processors is not None and not 1 <= processors <= host.processors:
        raise BringupError("wsl-processors", exit_code=2, given=processors, most=host.processors)
    advice = Advice(
        sizes.get("memory", derived.memory), processors or derived.processors, sizes.get("swap", derived.swap)
    )
    return advice, [*sizes, *(["processors"] if processors else [])]
