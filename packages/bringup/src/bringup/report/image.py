"""What `bringup image` shows: what was written, how large it will be, and what to type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bringup.recipes.schema import ExtensionRow
from bringup.report.explain import print_explanations
from bringup.report.messages import current_language, say
from bringup.report.progress import size
from bringup.report.tables import limits
from bringup.steps.image.commands import SHELLS, Beside, Here, Shell, Word, command_line, script
from bringup.steps.image.dockerfile import build_context_names
from bringup.steps.image.engines import BuildFailed, EngineName, build_words
from bringup.steps.image.running import Running, run_words
from bringup.steps.image.sizes import Layer, added_bytes
from bringup.steps.image.spec import ImageSpec

SHELL_NAMES: dict[Shell, str] = {"cmd": "cmd.exe", "powershell": "PowerShell", "bash": "bash"}
_SUFFIX: dict[Shell, str] = {"cmd": ".cmd", "powershell": ".ps1", "bash": ".sh"}


def _build(spec: ImageSpec, engine: EngineName, folder: Word) -> list[Word]:
    contexts: dict[str, Word] = dict(build_context_names(spec))
    return [engine, *build_words(engine, spec.tag, folder, contexts)]


def scripts(spec: ImageSpec, engine: EngineName) -> dict[str, str]:
    """File name → text: one script a shell to build the image, and one to run the workload in it."""
    variables = {"DOCKER_BUILDKIT": "1"} if engine == "docker" else {}
    files = {}
    for shell in SHELLS:
        build = [_build(spec, engine, (Beside(),))]
        files[f"build{_SUFFIX[shell]}"] = script(build, shell, variables)
        running = [row.words for row in run_words(spec, engine)]
        if running:
            files[f"run{_SUFFIX[shell]}"] = script(running, shell)
    return files


def commands(spec: ImageSpec, engine: EngineName, folder: Path) -> dict[str, dict[str, Any]]:
    """Shell → `build` and `run` (by stage), as they are typed at its prompt."""
    place: Word = str(folder) if folder.is_absolute() else (Here(str(folder)),)
    running: Sequence[Running] = run_words(spec, engine)
    return {
        shell: {
            "build": command_line(_build(spec, engine, place), shell),
            "run": [{"stage": row.name, "command": command_line(row.words, shell)} for row in running],
        }
        for shell in SHELLS
    }


def document(
    spec: ImageSpec,
    layers: Sequence[Layer],
    engine: EngineName,
    folder: Path,
    files: Sequence[str],
    log: Path | None,
) -> dict[str, Any]:
    """`bringup/image/1`."""
    known = [layer.bytes for layer in layers]
    return {
        "schema": "bringup/image/1",
        "recipe": spec.recipe.name,
        "profile": spec.profile,
        "base": spec.base,
        "tag": spec.tag,
        "gpus": [gpu.sm for gpu in spec.gpus],
        "torch": spec.torch.version if spec.torch else None,
        "cuda": spec.torch.cuda if spec.torch else None,
        "folder": str(folder),
        "files": list(files),
        "layers": [
            {"id": row.id, "bytes": row.bytes, "origin": row.origin, "count": row.count} for row in layers
        ],
        "added_bytes": added_bytes(layers),
        "total_bytes": sum(filter(None, known)) if layers[0].bytes is not None else None,
        "complete": None not in known,
        "engine": engine,
        "commands": commands(spec, engine, folder),
        "built": log is not None,
        "log": str(log) if log else None,
    }


def layers_table(layers: Sequence[Layer]) -> Table:
    """Layer by layer, where each number is from, and the sums."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("image.layer", "image.size", "image.origin"):
        table.add_column(
            say(heading), header_style="bold", justify="right" if heading == "image.size" else "left"
        )
    for layer in layers:
        title = say(f"image.layers.{layer.id}", count=layer.count)
        shown = size(layer.bytes) if layer.bytes is not None else "?"
        table.add_row(title, shown, say(f"image.origins.{layer.origin}"))
    table.add_row(say("image.added"), size(added_bytes(layers)), "", style="bold")
    if layers[0].bytes is not None:
        table.add_row(say("image.total"), size(layers[0].bytes + added_bytes(layers)), "", style="bold")
    return table


def print_image(
    spec: ImageSpec,
    layers: Sequence[Layer],
    engine: EngineName,
    folder: Path,
    built: Path | None,
    console: Console,
) -> None:
    """The paragraph for people."""
    chips = ", ".join(gpu.sm for gpu in spec.gpus) or "CPU"
    console.print(say("image.written", path=folder / "Dockerfile", base=spec.base, gpus=chips), markup=False)
    held = spec.recipe.image.versions.get("torch") if spec.recipe.image else None
    if held and spec.torch:
        after = f"{spec.torch.version}+{spec.torch.local}"
        console.print(say("image.torch", before=held, after=after), markup=False)
    for line in _licences(spec):
        console.print(line, markup=False)
    for choice in spec.extensions:
        ways = say("image.else").join(say(f"image.ways.{way}") for way in choice.ways)
        console.print(say("image.extension", name=_as_held(spec, choice.row), ways=ways), markup=False)
    for line in limits(spec.recipe):
        console.print(line, markup=False)
    console.print()
    console.print(layers_table(layers))
    if any(layer.bytes is None for layer in layers):
        console.print(say("image.incomplete"), style="dim", markup=False)
    if built is not None:
        console.print()
        console.print(say("image.built", tag=spec.tag, log=built), style="bold", markup=False)
    _print_commands(commands(spec, engine, folder), folder, console, built is not None)


def _as_held(spec: ImageSpec, row: ExtensionRow) -> str:
    """An extension's name, with the version that the base holds where the recipe says it."""
    held = spec.recipe.image.versions if spec.recipe.image else {}
    version = held.get(row.distribution)
    return f"{row.distribution} {version}" if version else row.distribution


def _licences(spec: ImageSpec) -> list[str]:
    """Licences of what the build will fetch as source."""
    rows = []
    source = spec.recipe.source
    if spec.fetched and source is not None:
        rows.append(say("image.licence", name=spec.recipe.name, licence=source.licence))
        if source.licence_note is not None:
            rows.append(f"  {getattr(source.licence_note, current_language())}")
    for choice in spec.extensions:
        if "build" in choice.ways and choice.row.build:
            licence = choice.row.build.licence
            rows.append(say("image.licence", name=choice.row.distribution, licence=licence))
    return rows


def _print_commands(
    rows: Mapping[str, Mapping[str, Any]], folder: Path, console: Console, built: bool
) -> None:
    for shell, texts in rows.items():
        lines = [] if built else [texts["build"]]
        if texts["run"]:
            lines.append(texts["run"][0]["command"])
        if lines:
            console.print()
            console.print(SHELL_NAMES[shell], style="bold", markup=False)  # type: ignore[index]
        for line in lines:
            # Not wrapped: a command is copied as it stands.
            console.print(line, markup=False, soft_wrap=True)
    console.print()
    console.print(say("image.scripts", path=folder), style="dim", markup=False)


def print_failure(error: BuildFailed, console: Console) -> None:
    """What the build's log is known to mean."""
    if error.explanations:
        print_explanations(error.explanations, console)
