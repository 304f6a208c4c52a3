"""`bringup rebuild NAME.json…`: converted checkpoints → models of today's libraries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from bringup.checkpoints.rules import BuildRequest
    from bringup.errors import BringupError
    from bringup.steps.rebuild import Rebuilt


def command(
    descriptions: Annotated[
        list[Path], typer.Argument(metavar="NAME.json...", help="What `bringup convert` wrote.")
    ],
    env: Annotated[Path, typer.Option(help="The environment whose Python builds the model.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")
    ] = Path("new_models"),
    class_path: Annotated[str | None, typer.Option("--class", help="package.module:Class")] = None,
    keywords: Annotated[
        str, typer.Option("--kwargs", help='JSON object, for example {"rigid": "{attribute:rigid}"}.')
    ] = "{}",
    path: Annotated[list[Path] | None, typer.Option(help="Folder to import from; may be repeated.")] = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="PATTERN=NEW, a regular expression; may be repeated.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Use the [[checkpoints]] of this recipe.")] = None,
    layout: Annotated[
        Literal["safetensors", "state-dict", "module"] | None,
        typer.Option(help="Default: the recipe's, else safetensors."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> int:
    """Build the class of today's library, load the tensors strictly, save, read back, compare every bit."""
    from bringup.errors import BringupError
    from bringup.report import checkpoints as report
    from bringup.report import console

    options = _Options(class_path, keywords, tuple(str(p) for p in path or ()), rename or [], recipe, layout)
    rows: list[dict[str, Any]] = []
    failed = False
    for description in descriptions:
        try:
            rebuilt = _rebuild(description, options, env, output, force)
            rows.append(report.rebuilt_json(rebuilt))
            if not json:
                _tell(rebuilt)
        except BringupError as error:  # noqa: PERF203 - one bad file must not stop the others
            if error.exit_code == 2:
                raise
            failed = True
            rows.append(report.failure_json(description, error))
            _tell_failure(error)
    if json:
        console.print_json({"schema": "bringup/rebuild/1", "checkpoints": rows})
    return int(failed)


class _Options:
    """What to build, as the command line says it."""

    def __init__(
        self,
        class_path: str | None,
        keywords: str,
        python_path: tuple[str, ...],
        renames: list[str],
        recipe: str | None,
        layout: str | None,
    ) -> None:
        self.class_path = class_path
        self.keywords = keywords
        self.python_path = python_path
        self.renames = renames
        self.recipe = recipe
        self.layout = layout

    def request(self, document: dict[str, Any]) -> tuple[BuildRequest, str]:
        """The request for one description, and where its result goes."""
        from bringup.checkpoints.rules import BuildRequest
        from bringup.errors import BringupError
        from bringup.recipes import load
        from bringup.steps.rebuild import request_of, row_for

        if self.recipe is not None:
            row = row_for(load(self.recipe), document)
            return request_of(row, self.layout, self.python_path), row.destination
        if self.class_path is None:
            raise BringupError("rebuild-usage", exit_code=2)
        layout = self.layout or "safetensors"
        request = BuildRequest(
            self.class_path, _keywords(self.keywords), _renames(self.renames), layout, self.python_path
        )
        return request, "{file}"


def _keywords(text: str) -> dict[str, Any]:
    import json

    from bringup.errors import BringupError

    try:
        keywords = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BringupError("rebuild-keywords", exit_code=2, text=error) from error
    if not isinstance(keywords, dict):
        raise BringupError("rebuild-keywords", exit_code=2, text=type(keywords).__name__)
    return keywords


def _renames(rules: list[str]) -> dict[str, str]:
    from bringup.errors import BringupError

    for rule in rules:
        if "=" not in rule:
            raise BringupError("rebuild-rename", exit_code=2, rule=rule, text="PATTERN=NEW")
    return dict(rule.split("=", 1) for rule in rules)


def _rebuild(description: Path, options: _Options, env: Path, output: Path, force: bool) -> Rebuilt:
    from bringup.checkpoints import rules
    from bringup.errors import BringupError
    from bringup.steps.rebuild import output_path, rebuild
    from bringup.steps.target import VirtualEnvironment

    document = rules.read_description(description)
    request, destination = options.request(document)
    target = output_path(output, destination, request.layout, document)
    if target.exists() and not force:
        raise BringupError("rebuild-output-exists", file=target)
    return rebuild(description, request, VirtualEnvironment(env.absolute()), target)


def _tell(rebuilt: Rebuilt) -> None:
    from bringup.report import checkpoints as report
    from bringup.report import console
    from bringup.report.messages import say

    console.output().print(report.rebuilt_line(rebuilt), markup=False)
    if rebuilt.layout == "module":
        warning = say("checkpoints.module-pickle-warning", file=rebuilt.output.name)
        console.remarks().print(warning, style="yellow", markup=False)


def _tell_failure(error: BringupError) -> None:
    from bringup.report import checkpoints as report
    from bringup.report import console, messages
    from bringup.steps.rebuild import KeysDiffer

    if isinstance(error, KeysDiffer):
        console.remarks().print(report.keys_table(error))
    console.remarks().print(messages.say_error(error), style="red", markup=False)
