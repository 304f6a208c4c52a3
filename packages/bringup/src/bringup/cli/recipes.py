"""`bringup recipes`: the workloads that bringup knows."""

from __future__ import annotations

from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The workloads that bringup knows.")


@group.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Names and titles."""
    from bringup.recipes import built_in, load
    from bringup.report import console
    from bringup.report.messages import current_language

    rows = [load(name) for name in built_in()]
    if as_json:
        listed = [{"name": row.name, "title": row.title.en, "summary": row.summary.en} for row in rows]
        console.print_json({"schema": "bringup/recipes/1", "recipes": listed})
        return
    for row in rows:
        typer.echo(f"{row.name:22} {getattr(row.title, current_language())}")


@group.command()
def show(recipe: Annotated[str, typer.Argument(help="A recipe's name or file.")]) -> None:
    """The recipe's text, checked against the schema."""
    from importlib import resources
    from pathlib import Path

    from bringup.recipes import built_in, load

    load(recipe)
    if recipe in built_in():
        typer.echo(
            (resources.files("bringup.recipes") / f"{recipe}.toml").read_text(encoding="utf-8"), nl=False
        )
    else:
        typer.echo(Path(recipe).read_text(encoding="utf-8"), nl=False)


@group.command()
def check(recipe: Annotated[str, typer.Argument(help="A recipe file of yours.")]) -> None:
    """Whether a recipe follows the schema."""
    from bringup.recipes import load
    from bringup.report.messages import say

    typer.echo(say("recipes.good", name=load(recipe).name))


@group.command()
def schema() -> None:
    """The JSON Schema that recipes follow."""
    from bringup.recipes.schema import Recipe
    from bringup.report import console

    console.print_json(Recipe.model_json_schema(by_alias=True))
